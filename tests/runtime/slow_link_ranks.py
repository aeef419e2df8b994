"""One rank of a test of slow links: `python -m tests.runtime.slow_link_ranks PACKAGE`.

In: a package of as many ranks; RANK, WORLD_SIZE and MPSPLIT_STORE in the environment.
Out: a line of JSON from rank 0: milliseconds a token between ranks, as measured, and as predicted
from links that the same ranks measured before.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from mpsplit.comm import world
from mpsplit.measure.probe_links import LinkProbe
from mpsplit.plan.cluster import Cluster, described
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job
from mpsplit.runtime.load import load_engine

TOKENS, ROUNDS = 12, 3


def main(package: str) -> None:
    comm = world()
    engine = load_engine(Path(package), comm)
    facts, plan = engine.manifest.facts, engine.manifest.plan
    links = LinkProbe(comm, facts.hidden)
    for _ in range(ROUNDS):
        links.sample()
    cluster = Cluster(described([1 << 40] * comm.size).devices, links.links())
    engine.step([1, 2, 3], 0)
    took = []
    for position in range(3, 3 + TOKENS):
        comm.wait()
        began = time.perf_counter()
        comm.broadcast(np.zeros(6, np.int64), 0)  # an order
        engine.step([position], position)
        comm.broadcast(np.zeros(1, np.int64), plan.stages[-1][0])  # stands for the answer
        took.append(time.perf_counter() - began)
    cost = price(facts, plan, cluster, Job(prompt=3, new=TOKENS))
    predicted = cost.token - sum(stage.compute for stage in cost.stages) - cluster.devices[0].step_seconds.value
    slowest = statistics.median(map(max, zip(*comm.exchange(took), strict=True)))
    if comm.rank == 0:
        print(json.dumps({"measured_ms": 1e3 * slowest, "predicted_ms": 1e3 * predicted, "transport": comm.transport}))


if __name__ == "__main__":
    main(*sys.argv[1:])
