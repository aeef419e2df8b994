"""Microseconds of an 8 KB all_reduce between the ranks: our C++ against mpi4py, in turns, so that
both meet the same weather.

    mpirun -np 2 python bench/all_reduce.py [--json] [--bytes 8192] [--rounds 50]

Each round times `CALLS` calls of each, one by one, on rank 0; the table has the median and the
tenth and ninetieth percentile of all of them. `native mpi` is the C++ without shared memory.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np
from mpi4py import MPI

from mpsplit.native import cpp

CALLS = 200


def times(act, x: np.ndarray, barrier) -> list[float]:
    barrier()
    found = []
    for _ in range(CALLS):
        x.fill(1)
        began = time.perf_counter()
        act(x)
        found.append((time.perf_counter() - began) * 1e6)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--bytes", type=int, default=8192)
    arguments.add_argument("--rounds", type=int, default=50)
    given = arguments.parse_args()
    module = cpp.load()
    if module is None:
        raise SystemExit("the C++ communicator is not built; run python -m mpsplit.native")
    world, shared, far = MPI.COMM_WORLD, module.mpi(), module.mpi(False)
    ways = {
        f"native {shared.transport}": shared.all_reduce,
        "native mpi": far.all_reduce,
        "mpi4py": lambda x: world.Allreduce(MPI.IN_PLACE, x),
    }
    x = np.ones(given.bytes // 4, np.float32)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(given.rounds + 1):
        for way, act in ways.items():
            took = times(act, x, world.Barrier)
            if turn:  # the first warms up
                found[way] += took
    if world.rank:
        return
    rows = {way: [round(float(np.percentile(t, p)), 2) for p in (50, 10, 90)] for way, t in found.items()}
    facts = dict(ranks=world.size, bytes=given.bytes, calls=CALLS * given.rounds, cores=os.cpu_count())
    if given.json:
        names = ("median_us", "p10_us", "p90_us")
        print(json.dumps({**facts, "ways": {way: dict(zip(names, row, strict=True)) for way, row in rows.items()}}))
        return
    print(
        f"all_reduce of {given.bytes} bytes of float32, {world.size} ranks on {os.cpu_count()} cores, {facts['calls']}"
        " calls each"
    )
    print(f"{'':16}{'median us':>12}{'p10':>10}{'p90':>10}")
    for way, row in rows.items():
        print(f"{way:16}{row[0]:12.2f}{row[1]:10.2f}{row[2]:10.2f}")


if __name__ == "__main__":
    main()
