"""What each kind and method of quantisation costs, measured on the model of examples/tiny-vicuna.

    python bench/quantisation.py [--kinds q4 q6 q8 bf16] [--methods minmax mse awq gptq awq+gptq] [--block 32] [--json]

Method: eval.jsonl's first 50 lines are the calibration text (awq, gptq; both with searched scales), the other 150 are what is measured on.
Every row is a package of one rank as it would be stored, run by the native engine. Weight error is |W - Q| / |W| over all linear
weights (after awq: of the weights that were rounded). KL (nats a token, float32 against this) and top-1 agreement are over all positions of
prompts and the answers that float32 gave, what all prompts begin with counted once; "right" is how many of the 150 prompts are answered right, greedily. Bits a weight: packed weights over the
number of weights in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone
from mpsplit.export import awq
from mpsplit.export.checkpoint import Checkpoint
from mpsplit.export.convert import convert
from mpsplit.export.encode import encoded
from mpsplit.export.fuse import fuse
from mpsplit.export.gptq import factor
from mpsplit.export.partition import partition
from mpsplit.export.pnnx import find_pnnx
from mpsplit.export.source import read_config
from mpsplit.export.statistics import Statistics, statistics
from mpsplit.export.torch_engine import TorchEngine
from mpsplit.native import kernels
from mpsplit.package.manifest import FUSED, GRAPH, PARTITION, RANK_TEXT, File, Manifest, rank_folder
from mpsplit.package.param import Param
from mpsplit.package.quantisation import LAYER, QLinear, Quantisation
from mpsplit.package.rank_text import rank_text
from mpsplit.package.weight_files import WeightFiles
from mpsplit.package.weights import PackedFile, gemm_shape, read_weights, write_weights
from mpsplit.plan.cuts import Part
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.shards import even_plan
from mpsplit.progress import track
from mpsplit.runtime.generate import Request
from mpsplit.runtime.load import load_loop

MODEL = Path(__file__).parents[1] / "examples" / "tiny-vicuna"
EVERYTHING = Part(None, None)
CALIBRATION, NEW = 50, 64  # lines of eval.jsonl, tokens of an answer
METHODS = ("minmax", "mse", "awq", "gptq", "awq+gptq")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Whole:
    """The float32 package and what is known of its weights: arrays and Statistics by weight name, names by layer of the graph."""

    package: Path
    arrays: Arrays
    of: Mapping[str, Statistics]
    names: Mapping[str, str]


@dataclass(frozen=True)
class Line:
    prompt: tuple[int, ...]
    text: tuple[int, ...]  # the prompt and what float32 answers
    answer: str


@dataclass(frozen=True)
class Row:
    kind: str
    method: str
    bits: float
    error: float
    kl: float
    top1: float
    right: float


def make_whole(scratch: Path) -> tuple[Whole, list[Line]]:
    package = scratch / "f32"
    checkpoint, facts = Checkpoint(MODEL), ModelFacts.from_config(read_config(MODEL))
    partition(MODEL, even_plan(facts, 1, 1), package, Alone())
    engine = TorchEngine(Manifest.load(package, PARTITION), MODEL, Alone())
    convert(package, Alone(), find_pnnx())
    of: dict[str, Statistics] = {}
    said = lines(package)
    for _, layer in statistics(engine, [line.text for line in said[:CALIBRATION]]):
        of |= layer
    arrays = {name: checkpoint.read(name, EVERYTHING).float().numpy() for name in checkpoint.entries}
    by_content = {(a.shape, a.tobytes()): name for name, a in arrays.items() if "embed" not in name}
    folder = rank_folder(package, 0)
    param = Param.load(folder / GRAPH)
    stored = read_weights(param, folder / WeightFiles.load(folder).floats)
    names = {layer: by_content[own[0].shape, own[0].tobytes()] for layer, own in stored.items()}
    return Whole(package, {name: arrays[name] for name in names.values()}, of, names), said


def lines(package: Path) -> list[Line]:
    loop = load_loop(package, Alone())
    found = []
    for line in (MODEL / "eval.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        prompt = tuple(loop.text.chat([{"role": "user", "content": said["prompt"]}]))
        found.append(Line(prompt, prompt + tuple(loop.generate(Request(prompt, NEW)).token_ids), said["answer"]))
    return found


def folded(whole: Whole, facts: ModelFacts, how: Quantisation) -> tuple[Arrays, dict[str, Statistics]]:
    found: dict[str, awq.Scaling] = {}
    for prefix in (f"model.layers.{number}." for number in range(facts.layers)):
        own = [
            {n.removeprefix(prefix): v for n, v in d.items() if n.startswith(prefix)} for d in (whole.arrays, whole.of)
        ]
        layer = awq.Layer(*own, facts.heads, facts.kv_heads)
        found |= {prefix + name: scaling for name, scaling in awq.scalings(layer, lambda _: how, "mse").items()}
    found |= awq.scalings(awq.Layer(whole.arrays, whole.of, 1, 1), lambda _: how, "mse", folds=[awq.HEAD])
    scaling = lambda name: found.get(name, awq.Scaling())  # noqa: E731
    return {n: scaling(n)(a) for n, a in whole.arrays.items()}, {
        n: scaling(n).statistics(s) for n, s in whole.of.items()
    }


def store(whole: Whole, out: Path, how: Quantisation, method: str) -> tuple[float, float]:
    """(bits a weight, weight error) of the package that it makes."""
    facts = Manifest.load(whole.package).facts
    arrays, of = folded(whole, facts, how) if "awq" in method else (whole.arrays, whole.of)
    scales = "minmax" if method == "minmax" else "mse"
    shutil.copytree(whole.package, out)
    folder = rank_folder(out, 0)
    param = Param.load(folder / GRAPH)
    lost = size = weights = 0.0
    layers = []
    files = replace(WeightFiles.load(folder), packed=((0, "weights/packed.bin"),))
    with PackedFile(folder / "weights/packed.bin") as file:
        for layer in param.layers:
            if layer.type == "Gemm":
                (n, k), name = gemm_shape(layer), whole.names[layer.name]
                u = factor(of[name].hessian) if "gptq" in method else None
                packed = encoded(arrays[name], how, scales, u)
                again = kernels().Weights(packed, n, k, how.bits, how.block).unpack()
                lost, size = lost + np.square(again - arrays[name]).sum(), size + np.square(arrays[name]).sum()
                weights += n * k
                q = QLinear(n, k, how.bits, how.block, file.append(packed), packed.nbytes, -1)
                layer = replace(layer, type=LAYER, params=q.params())
            layers.append(layer)
    param = Param(tuple(layers))
    stored = {layer: [arrays[name]] for layer, name in whole.names.items()}
    write_weights(param, stored, folder / files.floats)
    (folder / GRAPH).write_text(str(param), encoding="utf-8")
    (folder / FUSED).write_text(str(fuse(param, 0)), encoding="utf-8")
    manifest = Manifest.load(out)
    (folder / RANK_TEXT).write_text(rank_text(manifest, 0, files), encoding="utf-8")
    listed = tuple(File.of(out, folder / name) for name in (GRAPH, FUSED, RANK_TEXT, *files.names))
    manifest.with_files([listed], {}).save(out)
    return (folder / "weights/packed.bin").stat().st_size * 8 / weights, float(np.sqrt(lost / size))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def common(texts: list[tuple[int, ...]]) -> int:
    """How many tokens all texts begin with."""
    return next(i for i, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1)


def answers(package: Path, measured: list[Line]) -> tuple[np.ndarray, float]:
    """(log-probabilities of every position, the share of prompts answered right)"""
    loop = load_loop(package, Alone())
    shared = common([line.text for line in measured])
    logits = [loop.engine.step(line.text, 0, every_row=True)[shared * bool(i) :] for i, line in enumerate(measured)]
    right = sum(loop.generate(Request(line.prompt, NEW)).text.strip() == line.answer for line in measured)
    loop.engine.close()
    return log_softmax(np.concatenate(logits)), right / len(measured)


def measure(whole: Whole, measured: list[Line], kinds: list[str], methods: list[str], block: int) -> list[Row]:
    expected, right = answers(whole.package, measured)
    rows = [Row("f32", "", 32, 0, 0, 1, right)]
    for kind in track(kinds, "measure"):
        how = Quantisation.named(kind, block)
        for method in methods if how.bits < 16 else ("minmax",):
            out = whole.package.with_name(f"{kind}-{method}")
            bits, error = store(whole, out, how, method)
            found, right = answers(out, measured)
            kl = float(np.mean(np.sum(np.exp(expected) * (expected - found), axis=-1)))
            top1 = float(np.mean(expected.argmax(-1) == found.argmax(-1)))
            rows.append(Row(kind, method if how.bits < 16 else "", bits, error, kl, top1, right))
            shutil.rmtree(out)
    return rows


def markdown(rows: list[Row]) -> str:
    head = "| kind | method | bits a weight | weight error | KL, nats | top-1 | right |\n|---|---|---:|---:|---:|---:|---:|"
    return "\n".join(
        [head]
        + [
            f"| {r.kind} | {r.method} | {r.bits:.2f} | {r.error:.3%} | {r.kl:.2e} | {r.top1:.2%} | {r.right:.1%} |"
            for r in rows
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["bf16", "q8", "q6", "q4"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mpsplit-quantisation-") as folder:
        whole, said = make_whole(Path(folder))
        rows = measure(whole, said[CALIBRATION:], args.kinds, args.methods, args.block)
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else markdown(rows))


if __name__ == "__main__":
    main()
