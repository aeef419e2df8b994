"""One clock a rank: how a simulated step moves it, and whom it waits for.

In: a plan, machines, a job, their weather. Out: clocks, bytes, and whom everybody waited for.

Every rank is a small machine with a clock. It computes half layers, meets its peers round by round,
hands over, and begins what comes next; nothing else makes it wait. The order in which a rank does
all this does not depend on how long anything takes, so there is no queue of events. A meeting of
two clocks is the later one plus the link's seconds, and going through stages and rounds in order
gives each meeting its clocks. That is what a queue would find, for a fraction of the work.

What travels how: in an all_reduce both ends wait for each other. Handing over keeps the sender and
not the receiver. Orders and answers keep nobody, and pass ranks that are busy. Of two messages one
way over a link, the later one starts when the earlier one is off: that is its seconds beyond the
latency. Invariant: no clock goes back.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import attention_seconds, head_seconds, mlp_seconds
from mpsplit.plan.price.message_times import ANSWER, all_reduce_rounds, handovers, order_bytes, order_parent
from mpsplit.plan.price.sizes import ACTIVATION, Job
from mpsplit.plan.price.weather import Weather, jitter_of
from mpsplit.plan.shards import Plan

Cause = int | tuple[int, int]  # a rank that computes, or a link


@dataclass(frozen=True)
class _SumRound:
    """A round of an all_reduce. `pairs`: rank, rank, and the seconds of their meeting.

    `usual`: the seconds that are nobody's fault. Those of the quickest meeting, or none where not
    all ranks meet.
    """

    pairs: list[tuple[int, int, float]]
    usual: float


@dataclass(frozen=True)
class _StageStep:
    """A step of so many rows in one stage: seconds of each of its ranks, and its all_reduce."""

    layers: int
    attention: list[tuple[int, float]]
    mlp: list[tuple[int, float]]
    head: list[tuple[int, float]]
    rounds: list[_SumRound]
    size: int


class RankClocks:
    """Where each rank's clock stands, and what moved it there."""

    def __init__(self, facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, weather: Weather):
        self.facts, self.plan, self.cluster, self.job = facts, plan, cluster, job
        self.slower = [weather.stragglers.get(rank, 1.0) for rank in range(plan.ranks)]
        chance = random.Random(weather.seed)
        self.link_jitter, self.jitter = jitter_of(chance, weather.links), jitter_of(chance, weather.compute)
        self.at = [0.0] * plan.ranks
        self.computed, self.talked = [0.0] * plan.ranks, [0.0] * plan.ranks
        self.cause: list[Cause] = list(range(plan.ranks))  # of a clock being as late as it is
        self.waited_for: defaultdict[Cause, float] = defaultdict(float)
        # when the last message one way is off the link
        self.clear: dict[tuple[int, int], float] = {}
        self.posted: Counter[tuple[int, int, int]] = Counter()  # source, target, bytes
        self.sums: Counter[tuple[int, int]] = Counter()  # stage, bytes
        self.known: dict[tuple[int, int, int], _StageStep] = {}

    # -- a token ----------------------------------------------------------------------------------

    def choose(self, answered: float) -> None:
        """Rank 0 makes a token of the answers and begins the next one."""
        self.at[0] = max(self.at[0], answered)
        self._compute([(0, self.cluster.devices[0].step_seconds.value * self.slower[0])])

    def step(self, rows: int, position: int) -> None:
        """Through all stages, from rank 0's order on."""
        ready = self._order(order_bytes(rows))
        for number, group in enumerate(self.plan.stages):
            for rank in group:
                if ready[rank] > self.at[rank]:
                    self.at[rank], self.cause[rank] = ready[rank], (order_parent(rank), rank)
            size = self._stage(number, rows, position)
            if number + 1 < len(self.plan.stages):
                for source, target in handovers(group, self.plan.stages[number + 1]):
                    ready[target] = max(ready[target], self._hand_over(source, target, size))

    def answer(self) -> float:
        """When rank 0 has heard all ranks with rows of the head."""
        shards = self.plan.shards
        return max(
            self._post(rank, 0, self.at[rank], ANSWER) if rank else self.at[0]
            for rank in self.plan.stages[-1]
            if len(shards[rank].head)
        )

    def traffic(self) -> tuple[int, dict[tuple[int, int], int]]:
        """How many messages, and the bytes from source to target."""
        sent: defaultdict[tuple[int, int], float] = defaultdict(float)
        messages = self.posted.total()
        for (source, target, size), times in self.posted.items():
            sent[source, target] += times * size
        for (number, size), times in self.sums.items():
            for transfer in chain.from_iterable(all_reduce_rounds(self.plan.stages[number], size)):
                sent[transfer.source, transfer.target] += times * transfer.size
                messages += times
        return messages, {pair: int(total) for pair, total in sent.items()}

    # -- a stage ----------------------------------------------------------------------------------

    def _stage(self, number: int, rows: int, position: int) -> int:
        """A step of one stage: bytes of what it hands on."""
        key = number, rows, position
        step = self.known.get(key) or self.known.setdefault(key, self._prepare(*key))
        if number == 0:
            self._all_reduce(step.rounds)
        for _ in range(step.layers):
            self._compute(step.attention)
            self._all_reduce(step.rounds)
            self._compute(step.mlp)
            self._all_reduce(step.rounds)
        self._compute(step.head)
        self.sums[number, step.size] += 2 * step.layers + (number == 0)
        return step.size

    def _prepare(self, number: int, rows: int, position: int) -> _StageStep:
        facts, job, group = self.facts, self.job, self.plan.stages[number]
        size = rows * facts.hidden * ACTIVATION
        attention, mlp, head = [], [], []
        for rank in group:
            shard, device, slower = self.plan.shards[rank], self.cluster.devices[rank], self.slower[rank]
            heads, kv_heads = len(shard.heads), len(shard.kv_heads)
            attention.append((rank, slower * attention_seconds(facts, device, heads, kv_heads, rows, position, job)))
            mlp.append((rank, slower * mlp_seconds(facts, device, len(shard.mlp), rows, job)))
            if len(shard.head):
                head.append((rank, slower * head_seconds(facts, device, len(shard.head), job)))
        layers = len(self.plan.shards[group[0]].layers)
        return _StageStep(layers, attention, mlp, head, _sum_rounds(self.cluster, group, size), size)

    def _compute(self, work: Sequence[tuple[int, float]]) -> None:
        at, cause, computed, jitter = self.at, self.cause, self.computed, self.jitter
        for rank, seconds in work:
            if jitter:
                seconds *= jitter()
            at[rank] += seconds
            cause[rank] = rank
            computed[rank] += seconds

    # -- messages ---------------------------------------------------------------------------------

    def _all_reduce(self, rounds: Sequence[_SumRound]) -> None:
        """Whoever is done with its meeting of a round goes on to that of the next round.

        It does not wait for the others. Both of a meeting leave as late as the late one came, and
        by the same cause, unless the link has cost more than the wait.
        """
        at, cause, talked, jitter = self.at, self.cause, self.talked, self.link_jitter
        for meetings in rounds:
            for a, b, seconds in meetings.pairs:
                if jitter:
                    seconds *= jitter()
                late, early = (a, b) if at[a] >= at[b] else (b, a)
                wait = at[late] - at[early]
                if wait:
                    self.waited_for[cause[late]] += wait
                at[a] = at[b] = at[late] + seconds
                cause[a] = cause[b] = (a, b) if seconds - meetings.usual > wait else cause[late]
                talked[a] += seconds
                talked[b] += seconds

    def _order(self, size: int) -> list[float]:
        """When each rank hears what rank 0 says now."""
        heard = [self.at[0]] * self.plan.ranks
        for rank in range(1, self.plan.ranks):
            parent = order_parent(rank)
            heard[rank] = self._post(parent, rank, heard[parent], size)
        return heard

    def _hand_over(self, source: int, target: int, size: int) -> float:
        begin = self.at[source]
        self.at[source] = end = self._post(source, target, begin, size)
        self.talked[source] += end - begin
        return end

    def _post(self, source: int, target: int, ready: float, size: int) -> float:
        """Sends a message once `ready`: when it arrives."""
        link = self.cluster.link(source, target)
        seconds = link.time(size)
        if self.link_jitter:
            seconds *= self.link_jitter()
        begin = max(ready, self.clear.get((source, target), 0.0))
        self.clear[source, target] = begin + max(0.0, seconds - link.time(0))
        self.posted[source, target, size] += 1
        return begin + seconds


def _sum_rounds(cluster: Cluster, group: Sequence[int], size: int) -> list[_SumRound]:
    """Of an all_reduce: the two messages of an exchange are one meeting, as long as the longer."""
    rounds = []
    for transfers in all_reduce_rounds(group, size):
        longest: dict[tuple[int, int], float] = {}
        for transfer in transfers:
            pair = min(transfer.source, transfer.target), max(transfer.source, transfer.target)
            longest[pair] = max(longest.get(pair, 0.0), cluster.link(*pair).time(transfer.size))
        usual = min(longest.values()) if 2 * len(longest) == len(group) else 0.0
        rounds.append(_SumRound([(a, b, seconds) for (a, b), seconds in longest.items()], usual))
    return rounds
