"""How long messages between ranks take.

In: a communicator. Out: seconds for every pair, and of sums over groups.

Everybody walks through the same rounds, waiting for all between them. Invariant: in a round, a rank
has one partner at most.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from mpsplit.comm import Communicator
from mpsplit.package.json_fields import many, number, whole
from mpsplit.package.manifest_fields import BYTES
from mpsplit.package.together.exchanged import exchanged, of_rank_0
from mpsplit.plan.cluster import MESSAGES, LinkTimes, Measured, Sum
from mpsplit.plan.cluster_json import sums_from_json

FEW = 8  # ranks up to which pairs are measured one at a time, and sums at every size of group
TURNS = {4: 50, 16 << 10: 20, 1 << 20: 3}  # round trips of a sample, by bytes
CALLS = 20  # all_reduces of a sample
ROWS = (1, 16)  # of an all_reduce: a token, and more than travels in one piece

Pair = tuple[int, int]


def tournament(size: int) -> list[list[Pair]]:
    """Every pair once: one at a time among few ranks, as many as there can be among many."""
    if size <= FEW:
        return [[(a, b)] for b in range(size) for a in range(b)]
    seats = [*range(size), *([None] * (size % 2))]
    rounds = []
    for _ in range(len(seats) - 1):
        facing = zip(seats[: len(seats) // 2], reversed(seats[len(seats) // 2 :]), strict=True)
        rounds.append([(min(pair), max(pair)) for pair in facing if None not in pair])
        seats = [seats[0], seats[-1], *seats[1:-1]]  # all but the first move on by a seat
    return rounds


def group_sizes(size: int) -> list[int]:
    """Every size up to FEW, then powers of two, and all."""
    small = range(2, min(size, FEW) + 1)
    powers = (1 << bits for bits in range(FEW.bit_length(), size.bit_length()))
    return sorted({*small, *powers, *([size] * (size > 1))})


class LinkProbe:
    """Samples of one rank; all ranks call `sample` together."""

    def __init__(self, comm: Communicator, hidden: int):
        self.comm, self.rounds = comm, tournament(comm.size)
        self.groups = {}
        for size in group_sizes(comm.size):
            if comm.rank < size:
                self.groups[size] = comm.group(tuple(range(size)))
            comm.wait()
        self.rows = [np.zeros((rows, hidden), np.float32) for rows in ROWS]
        self.messages = [np.zeros(size, np.uint8) for size in MESSAGES]
        self.pairs: dict[tuple[Pair, int], list[float]] = {}
        self.sums: dict[tuple[int, int], list[float]] = {}

    def sample(self) -> None:
        for pairs in self.rounds:
            self.comm.wait()
            for pair in pairs:
                if self.comm.rank in pair:
                    self._pair(pair)
        for size in group_sizes(self.comm.size):
            self.comm.wait()
            if size in self.groups:
                self._sum(size)

    def forget(self) -> None:
        """What was sampled to warm up."""
        self.pairs.clear()
        self.sums.clear()

    def _pair(self, pair: Pair) -> None:
        first, last = pair
        for message in self.messages:
            times = []
            for _ in range(TURNS[message.nbytes] + 1):
                began = time.perf_counter()
                if self.comm.rank == first:
                    self.comm.send(message, last)
                    self.comm.recv(message, last)
                else:
                    self.comm.recv(message, first)
                    self.comm.send(message, first)
                times.append(time.perf_counter() - began)
            if self.comm.rank == first:  # the first turn waited for the partner
                self.pairs.setdefault((pair, message.nbytes), []).append(statistics.median(times[1:]) / 2)

    def _sum(self, size: int) -> None:
        group = self.groups[size]
        for x in self.rows:
            times = []
            for _ in range(CALLS + 1):
                before = group.seconds  # inside the call: an engine has no Python around it
                group.all_reduce(x)
                times.append(group.seconds - before)
            self.sums.setdefault((size, x.nbytes), []).append(statistics.median(times[1:]))

    def links(self) -> dict[Pair, LinkTimes]:
        """Of all ranks, on all ranks."""
        mine = [[*pair, size, times] for (pair, size), times in self.pairs.items()]
        of_ranks = exchanged(self.comm, mine, _pairs_of_a_rank)
        samples = {key: times for part in of_ranks for key, times in part.items()}
        return {
            pair: LinkTimes(tuple(Measured.of(samples[pair, size]) for size in MESSAGES))
            for pair in sorted(pair for pairs in self.rounds for pair in pairs)
        }

    def all_reduces(self) -> tuple[Sum, ...]:
        """As rank 0, which is in every group, found them."""
        sums = tuple(Sum(size, nbytes, Measured.of(samples)) for (size, nbytes), samples in self.sums.items())
        size = self.comm.size
        return of_rank_0(self.comm, [asdict(timed) for timed in sums], lambda data: sums_from_json(data, size))


def _pairs_of_a_rank(rows: list[list[Any]]) -> dict[tuple[Pair, int], list[float]]:
    for first, last, size, times in rows:
        many(whole(0, BYTES), 3)([first, last, size], "a pair")
        many(number(1e9), 1 << 20)(times, "its seconds")
    return {((first, last), size): times for first, last, size, times in rows}
