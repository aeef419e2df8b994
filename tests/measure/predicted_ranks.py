"""One rank of a test of predicted memory: mpirun -np N python -m tests.measure.predicted_ranks
PACKAGE CLUSTER.

In: a package of N ranks, a file. Run once without that file, it probes as little as it can and
writes it; run again, it answers a prompt. Out: a line of JSON from rank 0, the peak memory of each
rank as measured and as predicted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mpsplit.comm import world
from mpsplit.measure.probe import probe
from mpsplit.package.manifest import GRAPH, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.quantisation import kind_of
from mpsplit.plan.cluster_json import load_cluster, save_cluster
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job
from mpsplit.runtime.load import load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.measure.efforts import TINY

PROMPT, NEW = 96, 32


def main(package: Path, cluster: Path) -> None:
    comm = world()
    if not cluster.exists():
        probed = probe(comm, 1, cluster.parent, 64, TINY)
        comm.wait()  # everybody has seen that it is not there
        if comm.rank == 0:
            save_cluster(probed, cluster)
        return
    loop = load_loop(package, comm)
    if comm.rank:
        loop.follow()
        return
    vocabulary = loop.facts.vocabulary
    prompt = tuple(i * 7919 % vocabulary for i in range(PROMPT))
    measured = loop.generate(Request(prompt, NEW, ignore_eos=True)).stats.peak_rss_bytes
    loop.end()
    job = Job(kind_of(Param.load(rank_folder(package, 0) / GRAPH)), context=PROMPT + NEW, prompt=PROMPT, new=NEW)
    cost = price(loop.facts, loop.engine.manifest.plan, load_cluster(cluster), job)
    print(json.dumps({"measured": measured, "predicted": [memory.total for memory in cost.memory]}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
