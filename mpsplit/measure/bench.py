"""`mpsplit bench`: how fast a package runs here, and what holds it up.

In: an Engine, a communicator. Out: a Speed.

All ranks step in lock step, on random tokens; bench/README.md tells the method. Invariant: after
each step every rank waits for the last stage, as it would for the next token, so that no stage runs
ahead.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.native.cpp import kernels
from mpsplit.package.collectives import STAGE, WORLD, Call
from mpsplit.package.json_fields import mapping, number, record, whole
from mpsplit.package.manifest import Manifest
from mpsplit.package.manifest_fields import BYTES
from mpsplit.package.stored.embedding import stored_row
from mpsplit.package.together.exchanged import exchanged, plain
from mpsplit.progress import console, track
from mpsplit.runtime.account.account import peak_rss_bytes
from mpsplit.runtime.engine.engine_protocol import Engine

LENGTHS, NEW_TOKENS = (128, 512), 64
BEYOND_CACHES = 320_000_000  # bytes a rank reads at least, to measure the memory and not a cache
ENOUGH = 1_000_000_000  # and at most
CALLS = 20  # of each collective, to learn what it takes when nobody waits


@dataclass(frozen=True)
class Work:
    """What a round does: prefill of each length, then decoding of `new` tokens.

    The longest length comes first. The tokens follow the shortest, one by one.
    """

    lengths: tuple[int, ...]
    new: int

    @classmethod
    def within(cls, context: int) -> Work:
        new = min(NEW_TOKENS, context // 2)
        return cls(tuple(n for n in LENGTHS if n + new <= context) or (context - new,), new)


SECONDS = number(1e9)
ROUND = record(
    {"prefill": mapping(SECONDS, 64), "sent": whole(0, BYTES), "read": number(1e15)}
    | dict.fromkeys(("decode", "inside", "moving"), SECONDS)
)


@dataclass
class BenchRound:
    """One rank's part of a round; seconds, bytes. `inside`, `moving` and `sent` are of decode."""

    prefill: dict[int, float] = field(default_factory=dict)
    decode: float = 0.0
    inside: float = 0.0  # in collectives
    moving: float = 0.0  # what they take when nobody waits
    sent: int = 0
    read: float = 0.0  # bytes a second, 0 where nothing measures it

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"prefill": {str(length): seconds for length, seconds in self.prefill.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BenchRound:
        ROUND(data, "the round")
        return cls(**data | {"prefill": {int(length): seconds for length, seconds in data["prefill"].items()}})


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds: tokens a second, GB (10^9 bytes) a second over all ranks.

    `share` is of the time of decode. `predicted`: tokens a second by plan/price/cost.py, None where
    nobody knows the machines.
    """

    shape: str
    engine: str
    ranks: int
    threads: int
    quant: str
    prefill: dict[int, float]
    decode: float
    weights_gb_s: float
    read_gb_s: float | None
    weights_of_read: float | None
    bytes_per_token: float
    peak_rss_bytes: tuple[int, ...]
    share: dict[str, float]
    predicted: dict[str, float] | None = None


class Bench:
    """Rounds of one engine; every rank calls the same methods in the same order."""

    def __init__(self, engine: Engine, comm: Communicator, threads: int, chunk: int, work: Work):
        self.engine, self.comm, self.threads, self.chunk, self.work = engine, comm, threads, chunk, work
        self.manifest = engine.manifest
        plan = self.manifest.plan
        self.last = plan.stages[-1][0]  # the rank that the others wait for
        self.groups = {WORLD: comm, STAGE: comm.group(plan.group(comm.rank))}
        vocabulary = self.manifest.facts.vocabulary
        self.tokens = np.random.default_rng(0).integers(0, vocabulary, max(work.lengths) + work.new).tolist()
        self.memory: np.ndarray | None = None  # what `read` reads

    def round(self) -> BenchRound:
        done = BenchRound()
        for length in sorted(self.work.lengths, reverse=True):
            began = self._together()
            for start in range(0, length, self.chunk):
                self._step(self.tokens[start : min(start + self.chunk, length)], start, BenchRound())
            done.prefill[length] = time.perf_counter() - began
        before, bare = self._read(), self._bare_seconds()
        began = self._together()
        for position in range(length, length + self.work.new):
            self._step(self.tokens[position : position + 1], position, done)
        done.decode = time.perf_counter() - began
        done.moving = min(done.inside, bare * self.work.new)
        done.read = (before + self._read()) / 2
        return done

    def prepare_read(self) -> None:
        """From now on rounds also measure the memory.

        Not before, because the memory that this takes is not the engine's.
        """
        if kernels(required=False):
            size = max(weight_bytes(self.manifest, self.comm.rank), BEYOND_CACHES)
            self.memory = np.ones(min(size, ENOUGH), np.uint8)

    def _together(self) -> float:
        self.comm.exchange(None)
        return time.perf_counter()

    def _step(self, tokens: Sequence[int], position: int, into: BenchRound) -> None:
        sent, inside = self.engine.bytes_sent, self.engine.seconds
        self.engine.step(tokens, position)
        into.sent += self.engine.bytes_sent - sent
        into.inside += self.engine.seconds - inside
        began = time.perf_counter()
        self.comm.broadcast(np.zeros(1, np.int64), self.last)
        into.inside += time.perf_counter() - began if self.comm.size > 1 else 0

    def _bare_seconds(self) -> float:
        """What this rank's collectives of a step of one token take when all ranks are there.

        Of each alone the median, times its number.
        """
        x = np.zeros((1, self.manifest.facts.hidden), np.float32)
        schedule = self.manifest.ranks[self.comm.rank].schedule
        total = 0.0
        for call in meetings(self.manifest, self.comm.rank):
            self.comm.exchange(None)
            if call:
                group, took = self.groups[call.arguments[0]], []
                for _ in range(CALLS):
                    before = group.seconds
                    getattr(group, call.operator)(x, *call.arguments[1:])
                    took.append(group.seconds - before)
                total += statistics.median(took) * schedule.count(call)
        return total

    def _read(self) -> float:
        compiled = kernels(required=False)
        if self.memory is None or compiled is None:
            return 0.0
        began = self._together()
        compiled.read_through(self.memory, self.threads)
        return self.memory.nbytes / (time.perf_counter() - began)


def meetings(manifest: Manifest, rank: int) -> list[Call | None]:
    """Every kind of collective between the ranks, in one order for all ranks.

    None where `rank` takes no part.
    """
    schedules = [part.schedule for part in manifest.ranks]
    calls = {call for schedule in schedules for call in schedule}
    joint = sorted((call for call in calls if call.operator not in ("send", "recv")), key=str)
    sends = [(source, c) for source, schedule in enumerate(schedules) for c in schedule if c.operator == "send"]
    ends = [
        {source: call, call.arguments[1]: Call("recv", (call.arguments[0], source))}
        for source, call in dict.fromkeys(sends)
    ]
    return [call if call in schedules[rank] else None for call in joint] + [end.get(rank) for end in ends]


def weight_bytes(manifest: Manifest, rank: int) -> int:
    """What a step of this rank reads of weights; of the embedding it reads a row."""
    shard, row = manifest.plan.shards[rank], stored_row(manifest.dtype, manifest.facts.hidden)
    weights = sum(file.size for file in manifest.ranks[rank].files if file.path.endswith(".bin"))
    return weights - len(shard.embed) * row * (shard.stage == 0)


def measure(bench: Bench, repeat: int, shape: str, quant: str, predicted: dict[str, float] | None = None) -> Speed:
    """One round to warm up, then `repeat` rounds: the same answer on every rank."""
    bench.round()
    peaks = exchanged(bench.comm, peak_rss_bytes(), plain(whole(0, BYTES)))
    bench.prepare_read()
    # [rounds][ranks]
    rounds = [
        exchanged(bench.comm, bench.round().to_json(), BenchRound.from_json) for _ in track(range(repeat), "rounds")
    ]
    weights = sum(weight_bytes(bench.manifest, rank) for rank in range(bench.comm.size)) / 1e9
    decode = [bench.work.new / max(part.decode for part in parts) for parts in rounds]
    read = [sum(part.read for part in parts) / 1e9 for parts in rounds]
    of_read = [weights * d / r for d, r in zip(decode, read, strict=True)] if all(read) else []
    return Speed(
        shape=shape,
        quant=quant,
        predicted=predicted,
        engine=bench.engine.name,
        ranks=bench.comm.size,
        threads=bench.threads,
        prefill={
            n: statistics.median(n / max(part.prefill[n] for part in parts) for parts in rounds)
            for n in sorted(bench.work.lengths)
        },
        decode=statistics.median(decode),
        weights_gb_s=weights * statistics.median(decode),
        read_gb_s=statistics.median(read) if all(read) else None,
        weights_of_read=statistics.median(of_read) if of_read else None,
        bytes_per_token=sum(part.sent for part in rounds[0]) / bench.work.new,
        peak_rss_bytes=tuple(peaks),
        share=_shares([part for parts in rounds for part in parts]),
    )


def _shares(parts: list[BenchRound]) -> dict[str, float]:
    total, inside, moving = (sum(getattr(part, name) for part in parts) for name in ("decode", "inside", "moving"))
    return {"compute": 1 - inside / total, "collectives": moving / total, "wait": (inside - moving) / total}


def show(speed: Speed) -> None:
    from rich.table import Table

    ranks = f"{speed.ranks} rank{'s' * (speed.ranks > 1)} x {speed.threads} thread{'s' * (speed.threads > 1)}"
    table = Table("", "", title=f"{speed.shape} {speed.quant}, {ranks}, {speed.engine}", show_header=False)
    for name, rate in [*((f"prefill {n}", rate) for n, rate in speed.prefill.items()), ("decode", speed.decode)]:
        guess = f", predicted {speed.predicted[name]:,.1f}" if speed.predicted else ""
        table.add_row(name, f"{rate:,.1f} tok/s{guess}")
    table.add_row("weights", f"{speed.weights_gb_s:.2f} GB/s")
    read = "not measured"
    if speed.read_gb_s:
        read = f"{speed.read_gb_s:.2f} GB/s, of which weights {speed.weights_of_read:.0%}"
    table.add_row("memory reads", read)
    table.add_row("time of decode", ", ".join(f"{name} {part:.1%}" for name, part in speed.share.items()))
    table.add_row("between ranks", f"{speed.bytes_per_token:,.0f} bytes a token")
    table.add_row("peak memory", ", ".join(f"{size / 2**20:,.0f} MiB" for size in speed.peak_rss_bytes))
    console().print(table)
