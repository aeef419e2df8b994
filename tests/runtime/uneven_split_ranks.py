"""One rank of a test of uneven splits.

    mpirun -np N python -m tests.runtime.uneven_split_ranks PACKAGE REFERENCE ENGINE...

In: a package of N ranks, an npz of a prompt with transformers' logits and greedy tokens. Out: a
line of JSON from rank 0, with the largest difference of the logits and whether the tokens are
equal, by engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from mpsplit.comm import world
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.all_logits import all_logits
from mpsplit.runtime.loop.loop_protocol import Request


def main(package: str, reference: str, *engines: str) -> None:
    comm, results = world(), {}
    with np.load(reference) as file:
        prompt, logits, tokens = (file[name] for name in ("prompt", "logits", "tokens"))
    for engine in engines:
        loop = load_loop(Path(package), comm, chunk=9, engine=engine)
        split = all_logits(loop.engine, comm, tuple(prompt.tolist()))
        if comm.rank:
            loop.follow()
        else:
            answered = loop.generate(Request(tuple(prompt.tolist()), len(tokens), ignore_eos=True)).token_ids
            loop.end()
            results[engine] = [float(np.abs(split - logits).max()), list(answered) == tokens.tolist()]
        loop.engine.close()
    if comm.rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
