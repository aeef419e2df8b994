"""Packages that `mpsplit probe` measures engines with.

In: ModelFacts, a kind of weights. Out: a package that an engine loads.

The graphs are what fuse.py and convert make of a Llama, line by line, for one rank. The weights are
noise. Invariant: every layer has bytes of its own, so that a step reads as many as the real model's
would.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mpsplit.families.llama import LLAMA
from mpsplit.native.cpp import kernels
from mpsplit.package.manifest import FUSED, GRAPH, RANK_TEXT, Manifest, Rope, rank_folder
from mpsplit.package.param_text import Layer, Param
from mpsplit.package.stored.float_weights import PackedFile, gemm_shape, write_weights
from mpsplit.package.stored.quantisation import KINDS, LAYER, QLinear, Quantisation
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan

BLOCK, VOCABULARY = 32, 64
FLOATS, EMBED, PACKED = (f"weights/{name}.bin" for name in ("floats", "embedding", "packed"))

# Lines of a .param: {x} and {next} are the hidden states before and after layer {i}, {q} ... {down}
# stand for a linear's parameters.
FUSED_LAYER = """
Split split_x{i} 1 2 {x} x{i}_0 x{i}_1
RMSNorm norm_x{i} 1 1 x{i}_0 n{i} 0={hidden} 1=1e-6 2=1
QLinear qkv{i} 1 3 n{i} query{i} key{i} value{i} {q} {k} {v}
Attention attention{i} 3 1 query{i} key{i} value{i} a{i} 0={heads} 1={kv_heads} 2={dim} 3={scale}
QLinear o{i} 2 1 a{i} x{i}_1 y{i} {o} 8=1
Split split_y{i} 1 2 y{i} y{i}_0 y{i}_1
RMSNorm norm_y{i} 1 1 y{i}_0 m{i} 0={hidden} 1=1e-6 2=1
QLinear gated{i} 1 1 m{i} g{i} {up} {gate} 7=1
QLinear down{i} 2 1 g{i} y{i}_1 {next} {down} 8=1
"""
BEFORE_ATTENTION = """
Split split_x{i} 1 2 {x} x{i}_0 x{i}_1
RMSNorm norm_x{i} 1 1 x{i}_0 n{i} 0={hidden} 1=1e-6 2=1
Split split_n{i} 1 3 n{i} n{i}_0 n{i}_1 n{i}_2
{linear} query{i} 1 1 n{i}_0 query{i} {q}
{linear} key{i} 1 1 n{i}_1 key{i} {k}
{linear} value{i} 1 1 n{i}_2 value{i} {v}
"""
ATTENTION = "Attention attention{i} 3 1 query{i} key{i} value{i} a{i} 0={heads} 1={kv_heads} 2={dim} 3={scale}"
STOCK_ATTENTION = """
Reshape heads_q{i} 1 1 query{i} hq{i} 6="{dim},{heads},0h"
Permute turned_q{i} 1 1 hq{i} tq{i} 0=2
RotaryEmbed rope_q{i} 3 1 tq{i} cos_q{i} sin_q{i} rq{i} 0=0
Reshape heads_k{i} 1 1 key{i} hk{i} 6="{dim},{kv_heads},0h"
Permute turned_k{i} 1 1 hk{i} tk{i} 0=2
RotaryEmbed rope_k{i} 3 1 tk{i} cos_k{i} sin_k{i} rk{i} 0=0
Reshape heads_v{i} 1 1 value{i} hv{i} 6="{dim},{kv_heads},0h"
Permute turned_v{i} 1 1 hv{i} tv{i} 0=2
Input past_k{i} 0 1 past_k{i}
Input past_v{i} 0 1 past_v{i}
SDPA sdpa{i} 6 3 rq{i} rk{i} tv{i} mask_{i} past_k{i} past_v{i} s{i} k{i} v{i} 5=1 6={scale} 7=1
Permute turned_s{i} 1 1 s{i} ts{i} 0=2
Reshape rows_s{i} 1 1 ts{i} a{i} 6="{width},0c"
"""
AFTER_ATTENTION = """
{linear} o{i} 1 1 a{i} o{i} {o}
BinaryOp add_o{i} 2 1 x{i}_1 o{i} y{i} 0=0
Split split_y{i} 1 2 y{i} y{i}_0 y{i}_1
RMSNorm norm_y{i} 1 1 y{i}_0 m{i} 0={hidden} 1=1e-6 2=1
Split split_m{i} 1 2 m{i} m{i}_0 m{i}_1
{linear} gate{i} 1 1 m{i}_0 gate{i} {gate}
Swish silu{i} 1 1 gate{i} s_gate{i}
{linear} up{i} 1 1 m{i}_1 up{i} {up}
BinaryOp multiply{i} 2 1 s_gate{i} up{i} g{i} 0=2
{linear} down{i} 1 1 g{i} down{i} {down}
BinaryOp add_down{i} 2 1 y{i}_1 down{i} {next} 0=0
"""
HEAD = """
RMSNorm norm_head 1 1 hidden_out h 0={hidden} 1=1e-6 2=1
{linear} head 1 1 h logits {head}
"""
TOP = "TopK top 1 1 logits top 0={vocabulary} 1=0"

# what a linear is of: (outputs, inputs), and which product of a fused QLinear
LINEARS = {
    "q": (lambda f: (f.heads * f.head_dim, f.hidden), 0),
    "k": (lambda f: (f.kv_heads * f.head_dim, f.hidden), 1),
    "v": (lambda f: (f.kv_heads * f.head_dim, f.hidden), 2),
    "o": (lambda f: (f.hidden, f.heads * f.head_dim), 0),
    "up": (lambda f: (f.mlp, f.hidden), 0),
    "gate": (lambda f: (f.mlp, f.hidden), 1),
    "down": (lambda f: (f.hidden, f.mlp), 0),
}
# x B^T, B [n, k] is the weight
GEMM = {"10": "-1", "2": "0", "3": "1", "4": "0", "5": "1", "6": "1", "7": "0"}


@contextmanager
def scratch_folder(*large: str) -> Iterator[Path]:
    """A folder that vanishes.

    The `large` files in it are memory without a name: quick to write, and gone with the process
    however it ends.
    """
    with tempfile.TemporaryDirectory(prefix="mpsplit-probe-") as name, ExitStack() as open_files:
        folder = Path(name)
        for path in (folder / file for file in large):
            memory = os.memfd_create(path.name)
            open_files.callback(os.close, memory)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(f"/proc/{os.getpid()}/fd/{memory}")
        yield folder


def large_files(kind: str) -> tuple[str, ...]:
    """The large ones of a package."""
    return tuple(f"{rank_folder(Path(), 0)}/{name}" for name in ((PACKED, FLOATS) if KINDS[kind] else (FLOATS,)))


def facts_of(hidden: int, mlp: int, heads: int, kv_heads: int, head_dim: int, layers: int, context: int) -> ModelFacts:
    return ModelFacts(
        architecture=LLAMA.architectures[0],
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp=mlp,
        vocabulary=VOCABULARY,
        context=context,
        tied=False,
    )


def elements(facts: ModelFacts) -> int:
    """Weights of all linears in the layers."""
    return facts.layers * sum(n * k for _, (n, k), _ in _layer_shapes(facts))


def stored_bytes(facts: ModelFacts, kind: str) -> int:
    """Of those weights: a 16-bit scale a block beside the bits."""
    bits = Quantisation.named(kind, BLOCK).stored_bits + 16 / BLOCK if KINDS[kind] else 32
    return int(elements(facts) * bits / 8)


def write_package(package: Path, facts: ModelFacts, kind: str) -> Manifest:
    """One rank's package, for both engines; its linears are stored as `kind`."""
    frequencies = tuple(10000.0 ** (-2 * i / facts.head_dim) for i in range(facts.head_dim // 2))
    manifest = Manifest(
        model="probe", facts=facts, plan=even_plan(facts, 1, 1), rope=Rope(frequencies, 1.0), dtype="F32",
        eos=(), ranks=(), tokenizer=(), unused=(), tools={},
    )  # fmt: skip
    folder = rank_folder(package, 0)
    (folder / FLOATS).parent.mkdir(parents=True, exist_ok=True)
    files = WeightFiles(FLOATS, EMBED, ((0, PACKED),) if KINDS[kind] else ())
    (folder / RANK_TEXT).write_text(rank_text(manifest, 0, files), encoding="utf-8")
    matrices = _Matrices(facts)
    (folder / EMBED).write_bytes(matrices.floats(VOCABULARY, facts.hidden).tobytes())
    linears = _packed(folder / PACKED, facts, kind, matrices) if KINDS[kind] else _floats(facts)
    fused, stock = _fused(facts, kind, linears), _stock(facts, kind, linears)
    fused_path, stock_path = folder / FUSED, folder / GRAPH
    fused_path.write_text(str(fused), encoding="utf-8")
    stock_path.write_text(str(stock), encoding="utf-8")
    norms = {layer.name: [np.ones(facts.hidden, np.float32)] for layer in fused.of_type("RMSNorm")}
    gemms = {layer.name: [matrices.floats(*gemm_shape(layer))] for layer in fused.of_type("Gemm")}
    write_weights(fused, norms | gemms, folder / FLOATS)
    return manifest


def noise(count: int) -> np.ndarray:
    """So many small numbers, a few of them again and again: what they are changes no timing."""
    return np.resize(np.random.default_rng(0).standard_normal(1 << 16, np.float32) * np.float32(0.02), count)


class _Matrices:
    """Of every shape from the same numbers."""

    def __init__(self, facts: ModelFacts):
        self.numbers = noise(max(n * k for _, (n, k), _ in [*_layer_shapes(facts), _head_shape(facts)]))

    def floats(self, n: int, k: int) -> np.ndarray:
        return self.numbers[: n * k].reshape(n, k)


Shape = tuple[str, tuple[int, int], int]  # name, (outputs, inputs), product


def _layer_shapes(facts: ModelFacts) -> list[Shape]:
    return [(name, shape(facts), product) for name, (shape, product) in LINEARS.items()]


def _head_shape(facts: ModelFacts) -> Shape:
    return "head", (VOCABULARY, facts.hidden), 0


def _shapes(facts: ModelFacts) -> list[Shape]:
    """Of the linears, layer by layer, the head last."""
    return _layer_shapes(facts) * facts.layers + [_head_shape(facts)]


def _packed(path: Path, facts: ModelFacts, kind: str, matrices: _Matrices) -> list[dict[str, str]]:
    """Writes the linears of all layers one after the other.

    Out: their parameters, each as a QLinear of one product.
    """
    compiled = kernels()
    assert compiled, "weights are packed where the kernels are built"
    bits, packed, params = KINDS[kind], {}, []
    with PackedFile(path) as file:
        for _, (n, k), _ in _shapes(facts):
            if (n, k) not in packed:
                packed[n, k] = compiled.pack(matrices.floats(n, k), bits, BLOCK)
            matrix = packed[n, k]
            params.append(QLinear(n, k, bits, BLOCK, file.append(matrix), matrix.nbytes, -1).params())
    return params


def _floats(facts: ModelFacts) -> list[dict[str, str]]:
    return [GEMM | {"8": str(n), "9": str(k)} for _, (n, k), _ in _shapes(facts)]


def _fused(facts: ModelFacts, kind: str, linears: list[dict[str, str]]) -> Param:
    """fused.param: what the native engine runs."""
    quantised = bool(KINDS[kind])
    layer = FUSED_LAYER if quantised else BEFORE_ATTENTION + ATTENTION + AFTER_ATTENTION
    return _param(facts, kind, linears, "Input hidden 0 1 hidden", layer, HEAD + TOP, quantised)


def _stock(facts: ModelFacts, kind: str, linears: list[dict[str, str]]) -> Param:
    """model.param: what the ncnn wheel runs."""
    layers = range(facts.layers)
    inputs = ["Input hidden 0 1 hidden"]
    for name, tops in (
        ("cos", [f"cos_{of}{i}" for i in layers for of in "qk"]),
        ("sin", [f"sin_{of}{i}" for i in layers for of in "qk"]),
        ("mask", [f"mask_{i}" for i in layers]),
    ):
        inputs += [f"Input {name} 0 1 {name}", f"Split split_{name} 1 {len(tops)} {name} {' '.join(tops)}"]
    layer = BEFORE_ATTENTION + STOCK_ATTENTION + AFTER_ATTENTION
    return _param(facts, kind, linears, "\n".join(inputs), layer, HEAD, False)


def _param(
    facts: ModelFacts, kind: str, linears: list[dict[str, str]], inputs: str, layer: str, head: str, fused: bool
) -> Param:
    """The lines with their blanks filled in; with `fused`, linears are products of larger ones."""
    words = {
        "hidden": facts.hidden, "heads": facts.heads, "kv_heads": facts.kv_heads, "dim": facts.head_dim,
        "width": facts.heads * facts.head_dim, "scale": facts.head_dim**-0.5, "vocabulary": VOCABULARY,
        "linear": LAYER if KINDS[kind] else "Gemm",
    }  # fmt: skip
    texts = [
        (name, " ".join(f"{10 * product * fused + int(key)}={value}" for key, value in params.items()))
        for (name, _, product), params in zip(_shapes(facts), linears, strict=True)
    ]
    lines = [inputs]
    for i in range(facts.layers):
        blobs = {"x": f"x{i}" if i else "hidden", "next": f"x{i + 1}" if i + 1 < facts.layers else "hidden_out"}
        params = dict(texts[i * len(LINEARS) : (i + 1) * len(LINEARS)])
        lines.append(layer.format(i=i, **words, **blobs, **params))
    lines.append(head.format(**words, **dict(texts[-1:])))
    return Param(tuple(Layer.parse(line) for line in "\n".join(lines).splitlines() if line))
