r"""What each kind and method of quantisation costs, measured on the model of examples/tiny-vicuna.

    python bench/quality.py [--kinds q4 q6 q8 bf16] [--methods minmax mse awq gptq awq+gptq] \
        [--block 32] [--json]

Method: eval.jsonl's first 50 lines are the calibration text (awq, gptq; both with searched scales),
the other 150 are what is measured on. Every row is a package of one rank as `mpsplit convert`
stores it, run by the native engine. Weight error is |W - Q| / |W| over all linear weights (not
after awq, which stores other ones). KL (nats a token, float32 against this) and top-1 agreement are
over all positions of prompts and the answers that float32 gave, what all prompts begin with counted
once; "right" is how many of the 150 prompts are answered right, greedily. Bits a weight: packed
weights over the number of weights in it. First float32 weights with each kind of cache (--kv).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.model_source import read_config
from mpsplit.export.partition import partition
from mpsplit.export.weights.calibration_text import Calibration
from mpsplit.native.cpp import kernels
from mpsplit.package.manifest import GRAPH, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.quantisation import LAYER, QLinear, Quantisation
from mpsplit.package.stored.recipe import METHODS, SCALES, Recipe
from mpsplit.package.stored.weight_files import Packed, WeightFiles
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan
from mpsplit.progress import track
from mpsplit.runtime.engine.engine_protocol import CACHES
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request

MODEL = Path(__file__).parents[1] / "examples" / "tiny-vicuna"
CALIBRATION, NEW = 50, 64  # lines of eval.jsonl, tokens of an answer


@dataclass(frozen=True)
class Line:
    prompt: tuple[int, ...]
    text: tuple[int, ...]  # the prompt and what float32 answers
    answer: str


@dataclass(frozen=True)
class Row:
    """`error` is None where no weight of the model is stored as it is."""

    kind: str
    method: str
    bits: float
    error: float | None
    kl: float
    top1: float
    right: float


def lines(package: Path) -> list[Line]:
    loop = load_loop(package, Alone())
    found = []
    for line in (MODEL / "eval.jsonl").read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        prompt = tuple(loop.text.chat([{"role": "user", "content": said["prompt"]}]))
        found.append(Line(prompt, prompt + tuple(loop.generate(Request(prompt, NEW)).token_ids), said["answer"]))
    return found


def store(package: Path, how: Quantisation, method: str, said: list[Line]) -> None:
    recipe = Recipe(how, scales="minmax" if method == "minmax" else "mse")
    texts = tuple(line.text for line in said[:CALIBRATION])
    calibration = Calibration(method, texts, "") if method in METHODS else None
    convert(package, Alone(), find_pnnx(), recipe, calibration=calibration)


def stored(package: Path) -> tuple[float, float]:
    """(bits a weight, |W - Q| / |W|) of all linears."""
    folder, checkpoint = rank_folder(package, 0), Checkpoint(MODEL)
    packed = Packed.load(folder, WeightFiles.load(folder))
    lost = size = weights = 0.0
    for layer in Param.load(folder / GRAPH).layers:
        if layer.type == LAYER:
            q, w = QLinear.of(layer), checkpoint.floats(f"{layer.name}.weight")
            again = kernels().Weights(packed.at(q.offset, q.bytes), q.n, q.k, q.bits, q.block).unpack()
            lost, size, weights = lost + np.square(again - w).sum(), size + np.square(w).sum(), weights + w.size
    checkpoint.close()
    return sum(map(len, packed.arrays)) * 8 / weights, float(np.sqrt(lost / size))


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def common(texts: list[tuple[int, ...]]) -> int:
    """How many tokens all texts begin with."""
    return next(i for i, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1)


def answers(package: Path, measured: list[Line], cache: str = CACHES[0]) -> tuple[np.ndarray, float]:
    """(log-probabilities of every position, the share of prompts answered right)"""
    loop = load_loop(package, Alone())
    loop.reserve(loop.facts.context, cache)
    shared = common([line.text for line in measured])
    logits = [loop.engine.step(line.text, 0, every_row=True)[shared * bool(i) :] for i, line in enumerate(measured)]
    right = sum(loop.generate(Request(line.prompt, NEW)).text.strip() == line.answer for line in measured)
    loop.engine.close()
    return log_softmax(np.concatenate(logits)), right / len(measured)


def measure(package: Path, kinds: list[str], methods: list[str], block: int) -> list[Row]:
    partition(MODEL, even_plan(ModelFacts.from_config(read_config(MODEL)), 1, 1), package, Alone())
    convert(package, Alone(), find_pnnx())
    said = lines(package)
    measured = said[CALIBRATION:]
    expected, right = answers(package, measured)
    rows = [Row("f32", "", 32, 0, 0, 1, right)]
    for cache in CACHES[1:]:
        rows.append(compared(f"f32, --kv {cache}", "", 32, 0, expected, *answers(package, measured, cache)))
    for kind in track(kinds, "measure"):
        how = Quantisation.named(kind, block)
        for method in methods if how.bits < 16 else ("minmax",):
            store(package, how, method, said)
            bits, error = stored(package)
            shown, lost = method if how.bits < 16 else "", None if "awq" in method else error
            rows.append(compared(kind, shown, bits, lost, expected, *answers(package, measured)))
    return rows


def compared(
    kind: str, method: str, bits: float, error: float | None, expected: np.ndarray, found: np.ndarray, right: float
) -> Row:
    kl = float(np.mean(np.sum(np.exp(expected) * (expected - found), axis=-1)))
    top1 = float(np.mean(expected.argmax(-1) == found.argmax(-1)))
    return Row(kind, method, bits, error, kl, top1, right)


def markdown(rows: list[Row]) -> str:
    head = (
        "| kind | method | bits a weight | weight error | KL, nats | top-1 | right"
        " |\n|---|---|---:|---:|---:|---:|---:|"
    )
    return "\n".join(
        [head]
        + [
            f"| {r.kind} | {r.method} | {r.bits:.2f} | {'' if r.error is None else f'{r.error:.3%}'} | {r.kl:.2e} |"
            f" {r.top1:.2%} | {r.right:.1%} |"
            for r in rows
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["bf16", "q8", "q6", "q4"])
    parser.add_argument("--methods", nargs="+", choices=SCALES + METHODS, default=[*SCALES, *METHODS])
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mpsplit-quantisation-") as folder:
        rows = measure(Path(folder) / "package", args.kinds, args.methods, args.block)
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else markdown(rows))


if __name__ == "__main__":
    main()
