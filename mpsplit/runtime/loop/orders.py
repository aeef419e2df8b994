"""Orders: what rank 0 tells the others, round by round.

In: requests, on rank 0 alone. Out: arrays that any rank can obey. Invariant: Python and C++ read
the same bytes; orders_header.py writes extensions/rank/orders.h from this file and verbs.py.

Rank 0 knows the request, the history, the sampling and the verdicts. The others know their engine.
An order is one broadcast of 56 bytes, as `Order` lists them; verbs.py says what each verb means,
order_numbers.py what it brings. An order that means nothing is refused with the rank and the order.

An answer is one message to rank 0: the slice, float32 [rows], when ALL of it is wanted, otherwise
float64 as mpsplit/runtime/choose/answers.py says. Who has nothing to tell sends nothing.

From the start to the first order all ranks do together, in arrays that C++ speaks too:
    under mpirun: MPI_Allreduce MIN of int32 [has the C++ communicator], over MPI_COMM_WORLD
    (mpsplit/comm/world.py)
    the transport connects; the ranks of a host meet (extensions/comm/meet_on_host.cpp)
    all_gather of the host, 160 bytes padded with 0 (mpsplit/comm/native_comm.py)
    every rank loads; then a barrier without a timeout
    all_gather of int64 [VERSION, first row of the head, last + 1]
After a verb that rests, a rank waits for an order as long as it takes. Otherwise the communicator's
timeout holds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, get_type_hints

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.runtime.account.ledger import hosts_of
from mpsplit.runtime.choose.answers import NOTHING
from mpsplit.runtime.engine.engine_protocol import Engine
from mpsplit.runtime.loop.verbs import Verb

VERSION = 5
# the same orders, but ranks also send each other what `run --dump` writes; C++ ranks do not
DUMPING = VERSION + 1000
LEAD = 0
Numbers = Sequence[int] | np.ndarray
MOST_NUMBERS = 1 << 24  # that come with an order
CODES = {Verb: "q", int: "q", float: "d"}  # of the wire, by type


class Order(NamedTuple):
    """One order; what a field means depends on the verb."""

    verb: Verb
    slot: int = 0
    position: int = 0
    count: int = 0  # type: ignore[assignment]  # a tuple has a method of this name
    wanted: int = NOTHING
    token: int = 0
    temperature: float = 0.0

    def pack(self) -> np.ndarray:
        return np.frombuffer(bytearray(WIRE.pack(*self)), np.int64)

    @classmethod
    def unpack(cls, words: np.ndarray) -> Order:
        return cls(*WIRE.unpack(words.tobytes()))

    def told(self) -> str:
        verb, *rest = self[:-1]
        fields = ", ".join(f"{name} {value}" for name, value in zip(self._fields[1:], rest, strict=False))
        return f"order {verb.value} ({verb.name.lower()}: {fields})"


WIRE = struct.Struct("=" + "".join(CODES[kind] for kind in get_type_hints(Order).values()))


class BadOrder(RunError):
    """An order that means nothing. Whoever gave it is another mpsplit, or broken."""

    @classmethod
    def of(cls, rank: int, order: Order, why: object) -> BadOrder:
        return cls(f"rank {rank} cannot obey {order.told()} of rank {LEAD}: {why}; install the same mpsplit")


def known(number: int, rank: int) -> Verb:
    for verb in Verb:
        if verb == number:
            return verb
    raise BadOrder(f"rank {LEAD} gave order {number}, which rank {rank} does not know; install the same mpsplit")


class Orders:
    """One end of the wire; both ends know when a request begins."""

    def __init__(self, comm: Communicator):
        self.comm, self.idle = comm, True

    def give(self, order: Order, numbers: Numbers = ()) -> None:
        """Rank 0."""
        if self.comm.size == 1:
            return
        if self.idle:
            self.comm.tell(order.pack())
        else:
            self.comm.broadcast(order.pack(), LEAD)
        if order.verb.numbered and order.count > 1:
            self.comm.broadcast(np.asarray(numbers, np.int64), LEAD)
        self.idle = order.verb.resting

    def take(self) -> tuple[Order, np.ndarray]:
        """The other ranks: the order and its numbers."""
        words = np.empty(WIRE.size // 8, np.int64)
        if self.idle:
            self.comm.listen(words)
        else:
            self.comm.broadcast(words, LEAD)
        order = Order.unpack(words)
        verb = known(order.verb, self.comm.rank)
        order = order._replace(verb=verb)
        if verb.numbered and not 1 <= order.count <= MOST_NUMBERS:
            raise BadOrder.of(self.comm.rank, order, f"it brings 1 to {MOST_NUMBERS} numbers")
        numbers = np.full(order.count if verb.numbered else 0, order.token)
        if len(numbers) > 1:
            self.comm.broadcast(numbers, LEAD)
        self.idle = verb.resting
        return order, numbers


def greet(engine: Engine, comm: Communicator, spoken: int = VERSION, package: int = 0) -> None:
    """All ranks, once they have loaded: waits for the slowest, refuses ranks of another kind.
    `package` differs where packages do (manifest.py)."""
    comm.wait()
    mine = np.array([spoken, engine.vocabulary.start, engine.vocabulary.stop])
    for shard, (version, *rows) in zip(
        engine.manifest.plan.shards, comm.all_gather(mine).reshape(-1, 3).tolist(), strict=True
    ):
        if {version, spoken} == {VERSION, DUMPING}:
            raise RunError(
                f"rank {shard.rank} and this rank differ in --dump; start all with it, and none as mpsplit-rank"
            )
        if version != spoken:
            raise RunError(
                f"rank {shard.rank} speaks version {version} of the orders, this rank version {spoken}; install the"
                " same mpsplit"
            )
        if rows != [shard.head.start, shard.head.stop]:
            raise RunError(
                f"rank {shard.rank} has loaded rows {rows[0]}..{rows[1]} of the head, this rank's package says"
                f" {shard.head}; copy the same package to all hosts"
            )
    packages = comm.all_gather(np.array([package])).tolist()
    names = [f"rank {rank}" + (f" on {host}" if host else "") for rank, host in enumerate(hosts_of(comm))]
    if others := [name for name, number in zip(names, packages, strict=True) if number != packages[LEAD]]:
        raise RunError(
            f"another package than that of {names[LEAD]}, or another conversion of it, is what there is for"
            f" {', '.join(others)}; copy that of rank 0 to all hosts"
        )
