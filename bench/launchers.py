"""Starting the ranks of a package, and a token of them, under mpirun and under Ray, in turns.

    python bench/launchers.py PACKAGE... [--tokens 64] [--rounds 5]

Ray's cluster is that of RAY_ADDRESS or of `ray start`. In a round each launcher in turn runs
`mpsplit run` of each package, with threads as each shares the cores. Prints medians over the
rounds: seconds until the processes of all ranks are there, seconds of the whole command without
what its tokens took, milliseconds a token.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from statistics import median

from conversion import look

LAUNCHERS = "mpirun", "ray"
MARK = "MPSPLIT_BENCH"  # in the environment of who belongs to one run; Ray's ranks are given it too
RANKS = (b"RANK=", b"OMPI_COMM_WORLD_RANK=")
EVERY = 0.02
ROW = "| {} | {:.2f} | {:.2f} | {:.2f} |"


def measured(package: str, launcher: str, tokens: int) -> tuple[float, float, float]:
    """Seconds until the ranks are there, of start and end, of a token."""
    mark, ranks = uuid.uuid4().hex, len(json.loads(Path(package, "manifest.json").read_text())["ranks"])
    command = [sys.executable, "-m", "mpsplit", "run", package, "--prompt-ids", "1,2,3,4", "--ignore-eos", "--json"]
    command += ["--max-new-tokens", str(tokens), "--launcher", launcher]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {MARK: mark}) as child:
        while started(mark) < ranks and child.poll() is None:
            time.sleep(EVERY)
        there = time.perf_counter() - began
        said, _ = child.communicate()
    taken = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    stats = json.loads(said)["stats"]
    token = 1 / stats["decode_tok_s"]
    return there, taken - stats["time_to_first_token_s"] - (stats["new_tokens"] - 1) * token, token


def started(mark: str) -> int:
    """How many ranks with this mark there are."""
    folders = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    words = (look(entry / "environ").split(b"\0") for entry in folders)
    ours = (each for each in words if f"{MARK}={mark}".encode() in each)
    found = (next((word for word in each if word.startswith(RANKS)), None) for each in ours)
    return len({word for word in found if word})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    ways = [(package, launcher) for package in args.packages for launcher in LAUNCHERS]
    rounds = [[measured(*way, args.tokens) for way in ways] for _ in range(args.rounds + 1)][1:]  # the first warms up
    print("| | ranks there, s | start and end, s | ms a token |\n|---|---|---|---|")
    for (package, launcher), rows in zip(ways, zip(*rounds, strict=True), strict=True):
        there, around, token = (median(figures) for figures in zip(*rows, strict=True))
        print(ROW.format(f"{Path(package).name}, {launcher}", there, around, 1e3 * token))


if __name__ == "__main__":
    main()
