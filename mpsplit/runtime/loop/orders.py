"""Orders: what rank 0 tells the others, round by round.

In: requests, on rank 0 alone. Out: arrays that any rank can obey.

Rank 0 knows the request, the history, the sampling and the verdicts; the others know their engine.
An order is one broadcast of 56 bytes, as `Order` lists them. extensions/rank/orders.h reads the
same, for ranks without Python.

    STEP     append `count` tokens at `position` of `slot`; then answer, where this rank has rows of the head and something is `wanted`
    BATCH    append tokens to `position` slots at once: the numbers are int64 [position, 5], of each slot, position, count, wanted
             and temperature (as its bits), then all tokens; then answer for each, in order
    MORE     answer again, from the logits of the last step after the tokens of its `position`-th slot
    PLACE    from the `position`-th on, the pages of `slot` are these
    RESERVE  a cache of `count` pages, stored as CACHES[token] (engine_protocol.py)
    SAVE     the first `position` tokens of `slot` to this rank's file of a folder in the package; the numbers are whose they are, 64 bytes,
             and the folder, padded with 0 (kept_texts.py); all ranks gather int64 [1], how it went. Of 0 tokens: the file is removed
    LOAD     and from there, into the pages of `slot`
    REPORT   all ranks gather int64: the account of what ran since the last one (account.py)
    END      leave

STEP, BATCH, PLACE, SAVE and LOAD bring `count` numbers: `token`, or for more than one a second
broadcast, int64 [count].

An answer is one message to rank 0: the slice, float32 [rows], when ALL of it or no less than its
rows are wanted; otherwise float64 [rest, `wanted` logits in descending order, their ids], where
`rest` is the log of the summed exp of the whole slice at `temperature`, and NaN at temperature 0.

From the start to the first order all ranks do together, in arrays that C++ speaks too:
    mpirun only: MPI_Allreduce MIN of int32 [has the C++ communicator], over MPI_COMM_WORLD (mpsplit/comm/__init__.py)
    the transport connects; the ranks of a host meet (extensions/comm/meet.cpp)
    all_gather of the host, 160 bytes padded with 0 (mpsplit/comm/native_comm.py)
    every rank loads; then a barrier without a timeout and all_gather of int64 [VERSION, first row of the head, last + 1]
After RESERVE, SAVE, LOAD and REPORT a rank waits for an order as long as it takes; otherwise the communicator's timeout holds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.errors import RunError
from mpsplit.runtime.choose.candidates import NOTHING
from mpsplit.runtime.engine.engine_protocol import Engine, Span

VERSION = 4
# the same orders, but ranks also send each other what `run --dump` writes; C++ ranks do not
DUMPING = VERSION + 1000
LEAD = 0
STEP, BATCH, MORE, PLACE, RESERVE, SAVE, LOAD, REPORT, END = range(9)
NUMBERED = (STEP, BATCH, PLACE, SAVE, LOAD)

RESTING = (RESERVE, SAVE, LOAD, REPORT)  # orders after which perhaps nothing comes for a while

WIRE = struct.Struct("=6qd")


class Order(NamedTuple):
    verb: int
    slot: int = 0
    position: int = 0
    count: int = 0
    wanted: int = NOTHING
    token: int = 0
    temperature: float = 0.0

    def pack(self) -> np.ndarray:
        return np.frombuffer(bytearray(WIRE.pack(*self)), np.int64)

    @classmethod
    def unpack(cls, words: np.ndarray) -> Order:
        return cls(*WIRE.unpack(words))


class Orders:
    """One end of the wire; both ends know when a request begins."""

    def __init__(self, comm: Communicator):
        self.comm, self.idle = comm, True

    def give(self, order: Order, numbers: Sequence[int] = ()) -> None:
        """Rank 0."""
        if self.idle:
            self.comm.tell(order.pack())
        else:
            self.comm.broadcast(order.pack(), LEAD)
        if order.verb in NUMBERED and order.count > 1:
            self.comm.broadcast(np.asarray(numbers, np.int64), LEAD)
        self.idle = order.verb in RESTING

    def take(self) -> tuple[Order, np.ndarray]:
        """The other ranks: the order and its numbers."""
        words = np.empty(WIRE.size // 8, np.int64)
        if self.idle:
            self.comm.listen(words)
        else:
            self.comm.broadcast(words, LEAD)
        order = Order.unpack(words)
        numbers = np.full(order.count if order.verb in NUMBERED else 0, order.token)
        if len(numbers) > 1:
            self.comm.broadcast(numbers, LEAD)
        self.idle = order.verb in RESTING
        return order, numbers


class Asked(NamedTuple):
    """A part of a step, and what rank 0 wants to know of the logits after it."""

    part: Span
    wanted: int = NOTHING
    temperature: float = 0.0


ASKED = struct.Struct("=4qd")


def step_order(tokens: Sequence[int], asked: Sequence[Asked]) -> tuple[Order, Sequence[int]]:
    """The shortest order that says it, and its numbers."""
    if len(asked) == 1:
        (slot, position, count), wanted, temperature = asked[0]
        return Order(STEP, slot, position, count, wanted, tokens[0], temperature), tokens
    words = b"".join(ASKED.pack(*part, wanted, temperature) for part, wanted, temperature in asked)
    numbers = np.concatenate([np.frombuffer(words, np.int64), np.asarray(tokens, np.int64)])
    return Order(BATCH, position=len(asked), count=len(numbers)), numbers


def asked_of(order: Order, numbers: np.ndarray) -> tuple[np.ndarray, list[Asked]]:
    """The other way round: tokens, and what is asked."""
    if order.verb == STEP:
        return numbers, [Asked(Span(order.slot, order.position, order.count), order.wanted, order.temperature)]
    words = order.position * ASKED.size // 8
    found = [Asked(Span(*row[:3]), *row[3:]) for row in ASKED.iter_unpack(numbers[:words].tobytes())]
    return numbers[words:], found


WHOSE = 64  # bytes


def kept_order(verb: int, slot: int, tokens: int, folder: str, whose: str) -> tuple[Order, np.ndarray]:
    """SAVE or LOAD, and its numbers."""
    assert len(whose) == WHOSE
    text = (whose + folder).encode() + b"\0"
    numbers = np.frombuffer(bytearray(text + bytes(-len(text) % 8)), np.int64)
    return Order(verb, slot, tokens, len(numbers)), numbers


def kept_of(numbers: np.ndarray) -> tuple[str, str]:
    """The other way round: the folder, and whose it is."""
    text = numbers.tobytes().rstrip(b"\0").decode()
    return text[WHOSE:], text[:WHOSE]


def greet(engine: Engine, comm: Communicator, spoken: int = VERSION) -> None:
    """All ranks, once they have loaded: waits for the slowest, and refuses ranks that do not belong
    together."""
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
