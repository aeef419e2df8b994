"""A rank whose messages go wrong once, and which is otherwise `mpsplit ARGUMENTS`.

`python -m tests.serve.faulty_rank RANK FAULT AT ARGUMENTS`, for all ranks: on RANK the AT-th
message of its kind meets FAULT. Answers go from a rank that follows to rank 0, orders from rank 0
to the others. Where connections close no rank uses shared memory, or nothing would be missed.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from mpsplit import cli
from mpsplit.comm import Native, mpi_rank
from mpsplit.comm.timeout import timeout
from mpsplit.runtime.loop.orders import WIRE

Inner = Callable[..., None]


def cut_short(send: Inner, comm: Native, x: np.ndarray, peer: int) -> None:
    send(comm, x[: len(x) // 2], peer)


def too_long(send: Inner, comm: Native, x: np.ndarray, peer: int) -> None:
    send(comm, np.concatenate([x, x]), peer)


def twice(send: Inner, comm: Native, x: np.ndarray, peer: int) -> None:
    """The second one comes where another answer is expected."""
    send(comm, x[:1], peer)
    send(comm, x, peer)


def late(send: Inner, comm: Native, x: np.ndarray, peer: int) -> None:
    time.sleep(timeout() / 2)
    send(comm, x, peer)


def closed(send: Inner, comm: Native, x: np.ndarray, peer: int) -> None:
    """Every connection of this rank, which goes on."""
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as own:
                own.shutdown(socket.SHUT_RDWR)
        except OSError:  # is no socket, or no longer there
            continue
    send(comm, x, peer)


def raises(_: Inner, __: Native, ___: np.ndarray, ____: int) -> None:
    raise MemoryError("no memory is left on this rank")


def another_order(give: Inner, comm: Native, x: np.ndarray, root: int) -> None:
    """One that nobody knows."""
    words = x.copy()
    words[0] = 99
    give(comm, words, root)


def short_order(give: Inner, comm: Native, x: np.ndarray, root: int) -> None:
    give(comm, x[:-1], root)


ANSWERS = {fault.__name__: fault for fault in (cut_short, too_long, twice, late, closed, raises)}
ORDERS = {fault.__name__: fault for fault in (another_order, short_order)}


def harm(fault: str, at: int) -> None:
    """Of this process's messages the `at`-th that is an answer, or an order in the middle of
    a request."""
    name = "send" if fault in ANSWERS else "broadcast"
    inner, count = getattr(Native, name), 0

    def outer(comm: Native, x: np.ndarray, peer: int) -> None:
        nonlocal count
        count += name == "send" or x.nbytes == WIRE.size
        if count != at or (name == "broadcast" and x.nbytes != WIRE.size):
            inner(comm, x, peer)
        else:
            count += 1
            (ANSWERS | ORDERS)[fault](inner, comm, x, peer)

    setattr(Native, name, outer)


def main(rank: str, fault: str, at: str, *arguments: str) -> int:
    if fault == closed.__name__:
        Native.gloo = partial(Native.gloo, shared=False)
    if mpi_rank() == int(rank):
        harm(fault, int(at))
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
