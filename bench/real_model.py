r"""What each kind of weights costs a model that exists, beside llama.cpp's kinds on the same texts.

    python bench/real_model.py [MODEL.gguf] [--kinds own f32 q8 q6 q4 q4-plain] \
        [--peers own Q8_0 Q4_K_M] [--peers-python PYTHON] [--texts FILE] [--json]

Method: every token of the texts (examples/smollm2/english.txt), each text by itself. KL in nats a
token, equal best tokens and the perplexity as a ratio are against the same weights in float32; all
that runs in integers also rounds its inputs. "right" is how many of the 50 questions of
`mpsplit eval` are. Bits a weight are those of all linear weights but the head. `own` are the file's
blocks as they are, `-plain` is --no-calibrate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.check.evaluation import evaluate
from mpsplit.check.likelihood import CHUNK, log_softmax
from mpsplit.check.tasks import read_tasks
from mpsplit.comm import Alone
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.sealed.opened import ENVIRONMENT
from mpsplit.package.stored.quantisation import LAYER, QLinear
from mpsplit.progress import track
from mpsplit.runtime.load import load_engine, load_package_text
from mpsplit.runtime.talk.text import Text

HERE = Path(__file__).resolve().parent
TEXTS = HERE.parent / "examples" / "smollm2" / "english.txt"
QUESTIONS = HERE.parent / "mpsplit" / "check" / "tasks.json"
PEER = HERE / "contenders" / "llama_logits.py"


class Peer:
    """As much of an engine as is asked for here: llama.cpp with weights of a kind; None: those of
    the file."""

    def __init__(self, python: str, file: Path, kind: str | None, manifest: Manifest):
        self.manifest = manifest
        command = [python, str(PEER), str(file), *([kind] if kind else [])]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.width = int(np.frombuffer(self._read(4), np.int32)[0])

    def step(self, tokens: Sequence[int], position: int, every_row: bool = False) -> np.ndarray:
        assert self.process.stdin and every_row
        self.process.stdin.write(np.array([position, len(tokens), *tokens], np.int32).tobytes())
        self.process.stdin.flush()
        rows = np.frombuffer(self._read(4 * len(tokens) * self.width), np.float32)
        return rows.reshape(len(tokens), self.width)

    def _read(self, count: int) -> bytes:
        assert self.process.stdout
        if len(data := self.process.stdout.read(count)) != count:
            raise SystemExit(f"{' '.join(self.process.args)} ended")  # type: ignore[arg-type]
        return data

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Row:
    """`bits` is None where they are the peer's secret."""

    of: str
    kind: str
    bits: float | None
    seconds: float  # to convert
    kl: float
    top1: float
    perplexity: float  # as a ratio
    right: int


@dataclass(frozen=True)
class Seen:
    """The logits of each text, and how surprised they are by its tokens, in nats a token."""

    logits: tuple[np.ndarray, ...]
    nats: float
    right: int


def seen(engine: Any, texts: Sequence[Sequence[int]], text: Text, name: str) -> Seen:
    logits = tuple(np.concatenate(list(_steps(engine, tokens))) for tokens in track(texts, name))
    nats = [_nats(rows[:-1], tokens[1:]) for rows, tokens in zip(logits, texts, strict=True)]
    [score] = evaluate(engine, Alone(), [task for task in read_tasks(QUESTIONS) if task.questions], text)
    return Seen(logits, float(np.concatenate(nats).mean()), score.right)


def _steps(engine: Any, tokens: Sequence[int]) -> Iterator[np.ndarray]:
    for start in range(0, len(tokens), CHUNK):
        yield engine.step(tokens[start : start + CHUNK], start, every_row=True).copy()


def _nats(rows: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    pieces = range(0, len(tokens), CHUNK)
    found = [log_softmax(rows[at : at + CHUNK]) for at in pieces]
    return np.concatenate(
        [-piece[np.arange(len(piece)), tokens[at : at + CHUNK]] for at, piece in zip(pieces, found, strict=True)]
    )


def apart(exact: Seen, found: Seen) -> tuple[float, float]:
    """(KL, the share of equal best tokens)"""
    kl, same = [], []
    for theirs, ours in zip(exact.logits, found.logits, strict=True):
        for at in range(0, len(theirs), CHUNK):
            p, q = log_softmax(theirs[at : at + CHUNK]), log_softmax(ours[at : at + CHUNK])
            kl.append(np.sum(np.exp(p) * (p - q), axis=-1))
            same.append(p.argmax(-1) == q.argmax(-1))
    return float(np.concatenate(kl).mean()), float(np.concatenate(same).mean())


def bits_of(package: Path) -> float:
    layers = Param.load(rank_folder(package, 0) / GRAPH).layers
    packed = [QLinear.of(layer) for layer in layers if layer.type == LAYER and layer.name != "lm_head"]
    return 8 * sum(q.bytes for q in packed) / sum(q.n * q.k for q in packed) if packed else 32.0


def mpsplit(*words: object) -> float:
    """How long it took."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "mpsplit", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def ours(package: Path, kind: str, texts: Sequence[Sequence[int]], text: Text, exact: Seen) -> Row:
    stored, _, plain = kind.partition("-")
    quant = [] if stored == "own" else ["--quant", stored]
    seconds = mpsplit("convert", package, *quant, *(["--no-calibrate"] if plain else []))
    engine = load_engine(package, Alone())
    found = seen(engine, texts, text, kind)
    engine.close()
    return row("mpsplit", kind, bits_of(package), seconds, exact, found)


def row(of: str, kind: str, bits: float | None, seconds: float, exact: Seen, found: Seen) -> Row:
    return Row(of, kind, bits, seconds, *apart(exact, found), float(np.exp(found.nats - exact.nats)), found.right)


def markdown(rows: Sequence[Row]) -> str:
    head = "| | kind | bits a weight | KL, nats | top-1 | perplexity, times | right | converted in |"
    lines = [
        f"| {r.of} | {r.kind} | {'' if r.bits is None else f'{r.bits:.2f}'} | {r.kl:.4f} | {r.top1:.1%} |"
        f" {r.perplexity:.3f} | {r.right} | {f'{r.seconds:.0f} s' if r.seconds else ''} |"
        for r in rows
    ]
    return "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|", *lines])


def measure(args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    package = folder / "package"
    mpsplit("partition", args.model, "--ranks", 1, "--out", package)
    convert(package, Alone(), find_pnnx())
    manifest = Manifest.load(package)
    text = load_package_text(package, manifest, ENVIRONMENT)
    assert text, "a GGUF file has a tokenizer"
    texts = [text.raw(line) for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    engine = load_engine(package, Alone())
    exact = seen(engine, texts, text, "f32")
    engine.close()
    print(f"{len(texts)} texts, {sum(map(len, texts)):,} tokens, perplexity {np.exp(exact.nats):.3f}", file=sys.stderr)
    yield row("mpsplit", "f32", 32.0, 0, exact, exact)
    for kind in args.kinds:
        yield ours(package, kind, texts, text, exact)
    for kind in args.peers:
        began = time.monotonic()
        peer = Peer(args.peers_python, args.model, None if kind == "own" else kind, manifest)
        seconds = time.monotonic() - began
        yield row("llama.cpp", kind, None, seconds, exact, seen(peer, texts, text, kind))
        peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a GGUF file (default: SmolLM2, of ./launch/smollm2)")
    parser.add_argument("--kinds", nargs="*", default=["own", "bf16", "q8", "q6", "q4", "q4-plain", "q3", "q2"])
    parser.add_argument("--peers", nargs="*", default=[], metavar="KIND", help="own, Q8_0, Q4_K_M, ...")
    parser.add_argument("--peers-python", default=sys.executable, help="that has llama-cpp-python")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="one text a line")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.model:
        found = subprocess.run([HERE.parent / "launch" / "smollm2"], check=True, capture_output=True, text=True)
        args.model = Path(found.stdout.strip().splitlines()[-1])
    with tempfile.TemporaryDirectory(prefix="mpsplit-real-") as folder:
        rows = []
        for each in measure(args, Path(folder)):
            rows.append(each)
            print(markdown([each]).splitlines()[-1], file=sys.stderr, flush=True)
    print(json.dumps([asdict(each) for each in rows], indent=1) if args.json else markdown(rows))


if __name__ == "__main__":
    main()
