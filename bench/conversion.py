r"""What converting a large model takes: memory and bytes of each rank, and time.

In: a shape and a number of ranks. Out: a line each, or JSON.

    python bench/conversion.py --shape vicuna-7b --dtype float16 --ranks 2 --quant q4 \
        --dir /somewhere [--calibrate TEXT]

Makes the random checkpoint if it is not in --dir (13.5 GB), runs `mpsplit partition`, `convert` and
`run` on it as a user would, and meanwhile looks twenty times a second at each rank and all it has
started. Memory is the sum of their resident pages at one moment. To calibrate, the random model
borrows the tokenizer of examples/tiny-vicuna.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mpsplit.export.random_package import folder, random_checkpoint

RANK = b"OMPI_COMM_WORLD_RANK="
EVERY = 0.05
TOKENIZER = Path(__file__).parents[1] / "examples" / "tiny-vicuna" / "tokenizer.json"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Step:
    """One command: `peak`: bytes of each rank, its children counted."""

    name: str
    seconds: float
    peak: tuple[int, ...]
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="vicuna-7b")
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16"))
    parser.add_argument("--layers", type=int, help="another number of layers than the shape has")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--quant", default="q4")
    parser.add_argument("--calibrate", type=Path, help="a text, as for convert")
    parser.add_argument(
        "--to", type=int, metavar="N", help="then repartition the package for N ranks, without the checkpoint"
    )
    parser.add_argument("--dir", type=Path, help="for checkpoint and package (default: the cache)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = random_checkpoint(args.shape, args.dtype, args.layers, args.dir)
    package = (args.dir or folder()) / f"converted-{model.name}-{args.ranks}"
    again = package.with_name(f"{package.name}-to-{args.to}")
    _remove(package, again)
    if args.calibrate:
        shutil.copy(TOKENIZER, model)
    calibrate = ["--calibrate", args.calibrate] if args.calibrate else ["--no-calibrate"]
    steps = [
        run("partition", args.ranks, model, "--out", package, "--ranks", args.ranks),
        run("convert", args.ranks, package, "--quant", args.quant, *calibrate),
        *([run("repartition", args.to, package, "--ranks", args.to, "--out", again)] if args.to else []),
        run("run", args.ranks, package, "--prompt-ids", "1,2,3,4", "--max-new-tokens", 8, "--ignore-eos"),
    ]
    read = [
        tuple(int(n.replace(",", "")) for n in pair)
        for pair in re.findall(r"read ([\d,]+) of ([\d,]+) bytes", steps[1].said)
    ]
    told = {"model": model.name, "ranks": args.ranks, "read": read, "steps": [asdict(step) for step in steps]}
    if args.json:
        print(json.dumps(told))
    else:
        show(told)
    _remove(package, again)
    return 0


def _remove(*packages: Path) -> None:
    for package in packages:
        shutil.rmtree(package, ignore_errors=True)


def show(told: dict) -> None:
    for step in told["steps"]:
        peaks = ", ".join(f"{peak / 1e6:,.0f}" for peak in step["peak"])
        print(f"{step['name']:<10} {step['seconds']:8.1f} s   peak MB a rank: {peaks}")
    print("read of its slices: " + ", ".join(f"{a:,} of {b:,} ({a / b:.3f})" for a, b in told["read"]))
    print(f"said: {told['steps'][-1]['said'].strip()}")


def run(name: str, ranks: int, *arguments) -> Step:
    command = [sys.executable, "-m", "mpsplit", name, *map(str, arguments)]
    began, peak = time.perf_counter(), [0] * ranks
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        while child.poll() is None:
            for rank, size in enumerate(sizes(child.pid, ranks)):
                peak[rank] = max(peak[rank], size)
            time.sleep(EVERY)
        said = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}: {said}")
    return Step(name, time.perf_counter() - began, tuple(peak), said)


def sizes(parent: int, ranks: int) -> list[int]:
    """Bytes of each rank now, with all that it has started."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := look(entry / "stat")):
            below.setdefault(int(stat.rpartition(b")")[2].split()[1]), []).append(int(entry.name))
    found = [0] * ranks
    if ranks == 1:
        return [whole(parent, below)]
    todo = [parent]
    while todo:
        pid = todo.pop()
        own = [word for word in look(Path(f"/proc/{pid}/environ")).split(b"\0") if word.startswith(RANK)]
        if own:
            found[int(own[0].removeprefix(RANK))] += whole(pid, below)
        else:
            todo += below.get(pid, [])
    return found


def whole(pid: int, below: dict[int, list[int]]) -> int:
    pages = look(Path(f"/proc/{pid}/statm")).split()
    return (int(pages[1]) * PAGE if pages else 0) + sum(whole(child, below) for child in below.get(pid, []))


def look(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


if __name__ == "__main__":
    sys.exit(main())
