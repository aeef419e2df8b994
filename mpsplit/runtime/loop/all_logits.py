"""The logits of every token on one rank.

In: an engine on every rank. Out: the whole vocabulary, on rank 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.loop.orders import LEAD


def all_logits(engine: Engine, comm: Communicator, tokens: Sequence[int], position: int = 0) -> np.ndarray | None:
    """float32 [tokens, vocabulary] on rank 0, put together from the ranks' rows of the head."""
    own_rows = engine.step(tokens, position, every_row=True)
    if comm.rank != LEAD:
        if own_rows.shape[1]:
            comm.send(own_rows, LEAD)
        return None
    slices = []
    for shard in engine.manifest.plan.shards:
        if len(shard.head):
            rows = np.empty((len(tokens), len(shard.head)), np.float32) if shard.rank != LEAD else own_rows
            if shard.rank != LEAD:
                comm.recv(rows, shard.rank)
            slices.append(rows)
    return np.concatenate(slices, axis=1)
