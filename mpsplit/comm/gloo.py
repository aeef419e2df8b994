"""gloo with a face like pygloo's, for scripts that used it: a Context, numpy arrays, no mpirun.

    >>> import numpy as np
    >>> from mpsplit.comm import gloo
    >>> context = gloo.Context(rank=0, size=1)
    >>> context.connect("/tmp/a-folder-that-all-ranks-see")
    >>> x = np.ones(3, np.float32)
    >>> gloo.all_reduce(context, x)
    >>> x.tolist()
    [1.0, 1.0, 1.0]

In: a Context, and arrays that lie in memory in one piece. Out: what arrives overwrites them, or is
returned by all_gather. Invariant: the C++ is extensions/comm, so sums have the same bits as
everywhere else in mpsplit.
"""

from __future__ import annotations

import os

import numpy as np

from mpsplit.comm.native_comm import Native


class Context:
    """One rank of `size`, able to talk once it is connected."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self._native: Native | None = None

    def connect(self, store: str | os.PathLike[str], shared: bool = True) -> None:
        """All ranks meet in the folder `store`.

        `shared`: those of one host then use shared memory instead of TCP. MPSPLIT_INTERFACE names
        the network interface, MPSPLIT_TIMEOUT the seconds that a silent rank is waited for.
        """
        self._native = Native.gloo(self.rank, self.size, os.fspath(store), shared)

    @property
    def comm(self) -> Native:
        assert self._native, "call connect(store) before the first message"
        return self._native


def all_reduce(context: Context, x: np.ndarray) -> None:
    """Sums over the ranks, in place."""
    context.comm.all_reduce(x)


def all_gather(context: Context, x: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., size * n], in the order of the ranks."""
    return context.comm.all_gather(x)


def broadcast(context: Context, x: np.ndarray, root: int = 0) -> None:
    """Overwrites x with the root's."""
    context.comm.broadcast(x, root)


def send(context: Context, x: np.ndarray, peer: int) -> None:
    context.comm.send(x, peer)


def recv(context: Context, x: np.ndarray, peer: int) -> None:
    """Overwrites x with what `peer` sent."""
    context.comm.recv(x, peer)


def barrier(context: Context) -> None:
    """Until all ranks are here."""
    context.comm.comm.barrier()
