"""mpsplit, on every rank of a package: python ours.py PACKAGE [ENGINE].

The threads come from OMP_NUM_THREADS.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rounds import LENGTHS, NEW_TOKENS, serve

from mpsplit.comm import world
from mpsplit.measure.bench import Bench, BenchRound, Work
from mpsplit.runtime.engine.cores import share_of_cores
from mpsplit.runtime.load import load_engine

END, ROUND = 0, 1  # what rank 0 tells the others


def main(package: str, engine: str | None = None) -> None:
    comm = world()
    threads = share_of_cores(comm.local_size)
    work = Work(LENGTHS, NEW_TOKENS)
    bench = Bench(load_engine(Path(package), comm, engine), comm, threads, max(LENGTHS), work)

    def play(asked: int) -> dict[str, float]:
        assert asked == threads, f"{asked} threads asked for, {threads} there"
        comm.tell(np.array([ROUND]))
        parts = list(map(BenchRound.from_json, comm.exchange(bench.round().to_json())))
        found = {f"prefill {n}": n / max(part.prefill[n] for part in parts) for n in LENGTHS}
        return found | {"decode": NEW_TOKENS / max(part.decode for part in parts)}

    if comm.rank == 0:
        serve(play)
        comm.tell(np.array([END]))
        return
    order = np.array([ROUND])
    while True:
        comm.listen(order)
        if order[0] == END:
            return
        comm.exchange(bench.round().to_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
