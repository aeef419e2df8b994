"""How fast a package runs beside processes that want the same cores.

    python bench/neighbours.py PACKAGE [--over-two PACKAGE] [--beside 0 1 2 4] [--against CHECKOUT]

Method: bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpsplit.mpirun import OPEN_MPI, find_mpirun

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "contenders" / "stretches.py"
WORDS = ("decode", "prefill")


@dataclass(frozen=True)
class Turn:
    ranks: int
    threads: int
    checkout: Path = HERE.parent

    @property
    def name(self) -> str:
        return f"{self.ranks}x{self.threads}" + ("" if self.checkout == HERE.parent else " against")


class Contender:
    """A package on its ranks, which sleeps until it is told to go."""

    def __init__(self, turn: Turn, package: Path):
        mpirun = [find_mpirun(), "-np", str(turn.ranks)] if turn.ranks > 1 else []
        self.process = subprocess.Popen(
            [*mpirun, sys.executable, str(SCRIPT), str(package)],
            env={**OPEN_MPI, **os.environ, "OMP_NUM_THREADS": str(turn.threads), "PYTHONPATH": str(turn.checkout)},
            cwd=turn.checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def seconds(self, word: str, tokens: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{word} {tokens}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        self.process.wait(20)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many busy processes, each in a session of its own: within one, the scheduler gives them a
    core's share together."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def play(contenders: dict[Turn, Contender], args: argparse.Namespace, beside: int) -> None:
    """A line for each word and contender: tokens a second, and the ratios of the rounds."""
    turns = list(contenders)
    first = contenders[turns[0]]
    for word in args.only:
        unit = 128 if word == "prefill" else 1
        tokens = max(
            unit, int(args.seconds * unit * args.tokens / first.seconds(word, unit * args.tokens)) // unit * unit
        )
        rates: dict[Turn, list[float]] = {turn: [] for turn in turns}
        with neighbours(beside):
            for number in range(args.rounds):
                for turn in turns[number % len(turns) :] + turns[: number % len(turns)]:
                    rates[turn].append(tokens / contenders[turn].seconds(word, tokens))
        for turn in turns:
            own = [f"{statistics.median(rates[turn]):8.1f} tok/s"]
            for other in turns:
                if other != turn and (
                    other.threads == other.ranks == 1 or (other.ranks, other.threads) == (turn.ranks, turn.threads)
                ):
                    ratios = sorted(a / b for a, b in zip(rates[turn], rates[other], strict=True))
                    whole = statistics.median(rates[turn]) / statistics.median(rates[other])
                    own.append(f"{whole:.3f} ({statistics.median(ratios):.3f}) x {other.name}")
            print(f"beside {beside}  {word:8}{turn.name:12}{', '.join(own)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--over-two", type=Path, metavar="PACKAGE", help="the same model over two ranks")
    parser.add_argument("--beside", type=int, nargs="+", default=[0, 1, 2, 4], help="busy processes (default: 0 1 2 4)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, built, in the same rounds")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a turn with nobody beside it (default: 0.3)")
    parser.add_argument("--tokens", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=WORDS, default=list(WORDS))
    args = parser.parse_args()
    checkouts = [HERE.parent, *([args.against.resolve()] if args.against else [])]
    turns = [Turn(1, threads, checkout) for threads in (1, 2) for checkout in checkouts]
    if args.over_two:
        turns += [Turn(2, 1, checkout) for checkout in checkouts]
    contenders = {}
    try:
        for turn in turns:
            contenders[turn] = Contender(turn, (args.package if turn.ranks == 1 else args.over_two).resolve())
            contenders[turn].seconds("prefill", 128)
            contenders[turn].seconds("decode", 4)  # warm
        for beside in args.beside:
            play(contenders, args, beside)
    finally:
        for contender in contenders.values():
            contender.end()


if __name__ == "__main__":
    main()
