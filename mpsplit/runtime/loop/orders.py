"""Orders: what rank 0 tells the others, round by round.

In: requests, on rank 0 alone. Out: arrays that any rank can obey. Invariant: Python and C++ read
the same bytes; orders_header.py writes extensions/rank/orders.h from this file and verbs.py.

Rank 0 knows the request, the history, the sampling and the verdicts. The others know their engine.
An order is one broadcast of 56 bytes, as `Order` lists them; verbs.py says what each verb means and
brings.

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
from mpsplit.runtime.choose.answers import NOTHING, Wish
from mpsplit.runtime.engine.engine_protocol import IDENTITY, SAVE_NAME, Engine, KeptSegment, Span
from mpsplit.runtime.loop.verbs import Verb

VERSION = 5
# the same orders, but ranks also send each other what `run --dump` writes; C++ ranks do not
DUMPING = VERSION + 1000
LEAD = 0
Numbers = Sequence[int] | np.ndarray
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


WIRE = struct.Struct("=" + "".join(CODES[kind] for kind in get_type_hints(Order).values()))


def known(number: int) -> Verb:
    for verb in Verb:
        if verb == number:
            return verb
    raise RunError(f"rank 0 gave order {number}, which this rank does not know; install the same mpsplit")


class Orders:
    """One end of the wire; both ends know when a request begins."""

    def __init__(self, comm: Communicator):
        self.comm, self.idle = comm, True

    def give(self, order: Order, numbers: Numbers = ()) -> None:
        """Rank 0."""
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
        verb = known(order.verb)
        numbers = np.full(order.count if verb.numbered else 0, order.token)
        if len(numbers) > 1:
            self.comm.broadcast(numbers, LEAD)
        self.idle = verb.resting
        return order, numbers


class Question(NamedTuple):
    """A part of a step, and what rank 0 wants to know of the logits after it."""

    part: Span
    wanted: int = NOTHING
    likely: int = -1
    changed: int = 0
    temperature: float = 0.0

    @property
    def wish(self) -> Wish:
        return Wish(*self[1:])


QUESTION = struct.Struct("=6qd")  # as it lies in the numbers of BATCH


def step_order(tokens: Sequence[int], questions: Sequence[Question]) -> tuple[Order, Numbers]:
    """The shortest order that says it, and its numbers."""
    if len(questions) == 1 and questions[0] == Question(*questions[0][:2], temperature=questions[0].temperature):
        (slot, position, count), wanted, *_, temperature = questions[0]
        return Order(Verb.STEP, slot, position, count, wanted, tokens[0], temperature), tokens
    words = b"".join(QUESTION.pack(*part, *wish) for part, *wish in questions)
    numbers = np.concatenate([np.frombuffer(words, np.int64), np.asarray(tokens, np.int64)])
    return Order(Verb.BATCH, position=len(questions), count=len(numbers)), numbers


def questions_of(order: Order, numbers: np.ndarray) -> tuple[np.ndarray, list[Question]]:
    """The other way round: the tokens and the questions of STEP or BATCH."""
    if order.verb == Verb.STEP:
        part = Span(order.slot, order.position, order.count)
        return numbers, [Question(part, order.wanted, temperature=order.temperature)]
    words = order.position * QUESTION.size // 8
    rows = QUESTION.iter_unpack(numbers[:words].tobytes())
    return numbers[words:], [Question(Span(*row[:3]), *row[3:]) for row in rows]


SEGMENT = struct.Struct(f"=3q{IDENTITY}s")  # as it lies in the numbers of SAVE and LOAD


def kept_order(verb: Verb, slot: int, segment: KeptSegment, folder: str) -> tuple[Order, np.ndarray]:
    """SAVE or LOAD, and its numbers."""
    assert len(segment.identity) == IDENTITY
    numbers = _padded(SEGMENT.pack(*segment[:3], segment.identity.encode()) + folder.encode())
    return Order(verb, slot, count=len(numbers)), numbers


def kept_of(numbers: np.ndarray) -> tuple[KeptSegment, str]:
    """The other way round."""
    first, last, until, identity = SEGMENT.unpack(numbers.tobytes()[: SEGMENT.size])
    return KeptSegment(first, last, until, identity.decode()), _unpadded(numbers, SEGMENT.size)


def sweep_order(folder: str, saves: Sequence[str]) -> tuple[Order, np.ndarray]:
    """SWEEP, and its numbers."""
    assert all(len(save) == SAVE_NAME for save in saves)
    numbers = _padded("".join((*saves, folder)).encode())
    return Order(Verb.SWEEP, position=len(saves), count=len(numbers)), numbers


def swept_of(order: Order, numbers: np.ndarray) -> tuple[str, list[str]]:
    """The other way round."""
    names = order.position * SAVE_NAME
    text = numbers.tobytes()[:names].decode()
    return _unpadded(numbers, names), [text[at : at + SAVE_NAME] for at in range(0, names, SAVE_NAME)]


def _padded(text: bytes) -> np.ndarray:
    """Two numbers at least: so many come in a message of their own, whatever the text."""
    text += b"\0"
    return np.frombuffer(bytearray(text + bytes(max(16 - len(text), -len(text) % 8))), np.int64)


def _unpadded(numbers: np.ndarray, begin: int) -> str:
    return numbers.tobytes()[begin:].rstrip(b"\0").decode()


def greet(engine: Engine, comm: Communicator, spoken: int = VERSION) -> None:
    """All ranks, once they have loaded: waits for the slowest, refuses ranks of another kind."""
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
