r"""The same shape of model through mpsplit, llama.cpp and transformers, in turns, and how many
times faster ours is.

    python bench/peers.py [SHAPE] [--only ours-q4 llama-q4_0] [--threads 1 2] [--rounds 5] \
        [--peers-python PYTHON] [--json]
    python bench/peers.py --file MODEL.gguf      # the blocks of that file, in both

Each contender is a process of its own that sleeps until its turn (bench/contenders), and beside
each turn this one reads the memory. bench/README.md tells the method.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsplit.errors import MpsplitError, RunError
from mpsplit.export.random_package import folder, random_checkpoint, random_package
from mpsplit.measure.bench import BEYOND_CACHES, ENOUGH, LENGTHS, weight_bytes
from mpsplit.mpirun import OPEN_MPI, find_mpirun
from mpsplit.native.cpp import kernels
from mpsplit.package.manifest import Manifest
from mpsplit.package.stored.quantisation import Quantisation
from mpsplit.progress import track

CONTENDERS = Path(__file__).parent / "contenders"
NAMES = ("ours-q4", "ours-q8", "llama-q4_0", "llama-q4_k_m", "llama-q8_0", "transformers")
OF_FILE = ("ours-file", "llama-file")
AGAINST = {  # ours -> the peers that store as many bits, of which the best counts
    "ours-q4": (("llama-q4_0", "llama-q4_k_m"), ("transformers",)),
    "ours-q8": (("llama-q8_0",), ("transformers",)),
    "ours-file": (("llama-file",),),
}
METRICS = ("decode", *(f"prefill {n}" for n in LENGTHS))


@dataclass(frozen=True)
class Turn:
    """A contender as it is measured. Only ours has several ranks."""

    name: str
    ranks: int
    threads: int

    def __str__(self) -> str:
        return f"{self.name} {self.ranks}x{self.threads}"


class Contender:
    """A process that plays a round when it is told to."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]):
        self.name, self.said = name, tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process runs)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            bufsize=1,
            env=environment,
        )

    def play(self, threads: int) -> dict[str, float]:
        try:
            self.process.stdin.write(f"{threads}\n")
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RunError(f"{self.name} has ended: {''.join(last) or 'it said nothing'}")
        return json.loads(answer)

    def end(self) -> None:
        if self.process.poll() is None:
            try:
                self.process.stdin.write("end\n")
                self.process.wait(10)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self.process.terminate()
                self.process.wait()


class Match:
    """All contenders, started and warm. Use as a context: they end with it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.turns = [Turn(name, 1, threads) for name in args.only for threads in args.threads]
        self.turns += [Turn(n, t, 1) for n in args.only for t in args.threads if n.startswith("ours") and t > 1]
        self.running: dict[tuple, Contender] = {}
        self.weights: dict[str, int] = {}  # bytes a token reads, of ours
        self.made = tempfile.TemporaryDirectory(prefix="mpsplit-peers-")

    def __enter__(self) -> Match:
        try:
            files = gguf_files(self.args)
            for turn in self.turns:
                if self._process(turn) not in self.running:
                    self.running[self._process(turn)] = self._start(turn, files)
                self._at(turn).play(turn.threads)  # warms up
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for contender in self.running.values():
            contender.end()
        self.made.cleanup()

    def play(self, turn: Turn) -> dict[str, float]:
        return self._at(turn).play(turn.threads)

    def _at(self, turn: Turn) -> Contender:
        return self.running[self._process(turn)]

    def _process(self, turn: Turn) -> tuple:
        """The peers change their threads between rounds; ours are given at the start."""
        return (turn.name, turn.ranks, turn.threads) if turn.name.startswith("ours") else (turn.name,)

    def _start(self, turn: Turn, files: dict[str, Path]) -> Contender:
        environment = {**OPEN_MPI, **os.environ, "OMP_NUM_THREADS": str(turn.threads)}
        if turn.name in files:
            command = [self.args.peers_python, CONTENDERS / "llama.py", files[turn.name]]
        elif turn.name == "transformers":
            command = [sys.executable, CONTENDERS / "torch_bfloat16.py", random_checkpoint(self.args.shape)]
        else:
            package = self._package(turn)
            manifest = Manifest.load(package)
            self.weights[turn.name] = sum(weight_bytes(manifest, rank) for rank in range(turn.ranks))
            mpirun = [find_mpirun(), "-np", str(turn.ranks)] if turn.ranks > 1 else []
            engine = [self.args.engine] if self.args.engine else []
            command = [*mpirun, sys.executable, CONTENDERS / "ours.py", package, *engine]
        if turn.name == "transformers" or turn.name in files:
            environment["OMP_NUM_THREADS"] = str(max(self.args.threads))
        return Contender(turn.name, list(map(str, command)), environment)

    def _package(self, turn: Turn) -> Path:
        if turn.name != "ours-file":
            return random_package(self.args.shape, turn.ranks, Quantisation(int(turn.name[-1])))
        package = Path(self.made.name) / f"ranks-{turn.ranks}"
        if not package.exists():
            for words in (["partition", self.args.file, "--ranks", turn.ranks, "--out", package], ["convert", package]):
                done = [sys.executable, "-m", "mpsplit", *map(str, words)]
                subprocess.run(done, check=True, stdout=subprocess.DEVNULL)
        return package


def gguf_files(args: argparse.Namespace) -> dict[str, Path]:
    """llama.cpp's file for each of its names, made where it is not there."""
    files = {
        name: folder() / f"{args.shape}-{name.removeprefix('llama-')}.gguf"
        for name in args.only
        if name.startswith("llama-q")
    }
    if "llama-file" in args.only:
        files["llama-file"] = args.file
    missing = [(path, name.removeprefix("llama-")) for name, path in files.items() if not path.is_file()]
    if missing:
        print(f"making {', '.join(str(path) for path, _ in missing)}, once", file=sys.stderr, flush=True)
        made = [str(word) for pair in missing for word in pair]
        script = [args.peers_python, CONTENDERS / "gguf_of.py", random_checkpoint(args.shape)]
        done = subprocess.run([*map(str, script), *made], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise RunError(f"no GGUF: {last}; llama.cpp's Python is --peers-python (pip install 'mpsplit[peers]')")
    return files


def play_rounds(match: Match, rounds: int) -> dict[Turn, list[dict[str, float]]]:
    """turn -> its rounds: tokens a second by name, and `read`, the memory's GB/s right before and
    after."""
    size = min(max([*match.weights.values(), BEYOND_CACHES]), ENOUGH)
    memory = np.ones(size, np.uint8)
    found: dict[Turn, list[dict[str, float]]] = {turn: [] for turn in match.turns}

    def read(threads: int) -> float:
        began = time.perf_counter()
        kernels().read_through(memory, threads)
        return memory.nbytes / 1e9 / (time.perf_counter() - began)

    for number in track(range(rounds), "rounds"):
        first = number % len(match.turns)  # nobody always follows the same one
        for turn in match.turns[first:] + match.turns[:first]:
            threads = turn.ranks * turn.threads
            before = read(threads)
            played = match.play(turn)
            found[turn].append(played | {"read": (before + read(threads)) / 2})
    return found


def median(rounds: list[dict[str, float]], metric: str) -> float:
    return statistics.median(played[metric] for played in rounds)


def ratios(found: dict[Turn, list[dict[str, float]]], weights: dict[str, int]) -> list[dict]:
    """Rows of a, b, metric, of medians, median of ratios: how many times faster a is than b."""
    rows = []

    def compare(a: Turn, b: Turn, metric: str) -> None:
        each = [x[metric] / y[metric] for x, y in zip(found[a], found[b], strict=True)]
        of_medians = median(found[a], metric) / median(found[b], metric)
        rows.append(dict(a=str(a), b=str(b), metric=metric, of_medians=of_medians, median=statistics.median(each)))

    for ours in (turn for turn in found if turn.name in AGAINST):
        for peers in AGAINST[ours.name]:
            theirs = [Turn(name, 1, ours.threads) for name in peers if Turn(name, 1, ours.threads) in found]
            for metric in METRICS if theirs and ours.ranks == 1 else ():
                compare(ours, max(theirs, key=lambda turn: median(found[turn], metric)), metric)
        if ours.ranks > 1:
            for metric in METRICS:
                compare(ours, Turn(ours.name, 1, ours.ranks), metric)
        each = [weights[ours.name] / 1e9 * played["decode"] / played["read"] for played in found[ours]]
        of_medians = weights[ours.name] / 1e9 * median(found[ours], "decode") / median(found[ours], "read")
        reads = dict(a=str(ours), b="memory reads", metric="decode")
        rows.append(reads | dict(of_medians=of_medians, median=statistics.median(each)))
    return rows


def show(found: dict[Turn, list[dict[str, float]]], rows: list[dict]) -> None:
    print(f"{'tok/s, medians':22}" + "".join(f"{metric:>13}" for metric in METRICS) + f"{'read GB/s':>13}")
    for turn, rounds in found.items():
        print(f"{turn!s:22}" + "".join(f"{median(rounds, metric):13.2f}" for metric in (*METRICS, "read")))
    print(f"\n{'times as fast':22}{'as':22}{'at':>13}{'of medians':>13}{'of rounds':>13}")
    for row in rows:
        print("{a:22}{b:22}{metric:>13}{of_medians:13.3f}{median:13.3f}".format(**row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", nargs="?", default="llama-1.1b", help="as of `mpsplit bench --random`; a llama")
    parser.add_argument("--file", type=Path, help="a GGUF file in SHAPE's place")
    parser.add_argument("--only", nargs="+", choices=NAMES + OF_FILE, help="these contenders")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="T: 1 rank of T threads, ours T of 1 too"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that has llama-cpp-python and gguf")
    parser.add_argument("--engine", help="ours; the fastest there is when not given")
    parser.add_argument("--json", action="store_true", help="every round of every contender too")
    args = parser.parse_args()
    args.only = args.only or (OF_FILE if args.file else NAMES)
    try:
        with Match(args) as match:
            found = play_rounds(match, args.rounds)
        rows = ratios(found, match.weights)
    except MpsplitError as wrong:
        raise SystemExit(f"peers: {wrong}") from None
    if args.json:
        print(
            json.dumps(
                {"shape": str(args.file or args.shape), "rounds": {str(t): r for t, r in found.items()}, "ratios": rows}
            )
        )
    else:
        show(found, rows)


if __name__ == "__main__":
    main()
