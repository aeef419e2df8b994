"""A plan played out message by message, on machines that nobody here owns.

In: a model, a plan, machines, a job, their weather. Out: what happened: seconds, bytes, and whom
everybody waited for.

Every rank is a small machine with a clock. It computes half layers, meets its peers round by round,
hands over, and begins what comes next; nothing else makes it wait. The order in which a rank does
all this does not depend on how long anything takes, so there is no queue of events: a meeting of
two clocks is the later one plus the link's seconds, and going through steps, stages and rounds in
order gives each meeting its clocks. That is what a queue would find, for a fraction of the work.

What travels how: in an all_reduce both ends wait for each other. Handing over keeps the sender and
not the receiver. Orders and answers keep nobody, and pass ranks that are busy. Of two messages one
way over a link, the later one starts when the earlier one is off: that is its seconds beyond the
latency.

Invariant: in calm weather no time is longer than cost.py's, and none is shorter where ranks and
links are alike; but for one message a step where the first stage has 5, 9, 10, 11 ... ranks, whose
folding does not wait for the last of them to hear the order.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpsplit.errors import ClusterError, PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import attention_seconds, head_seconds, mlp_seconds
from mpsplit.plan.price.message_times import ANSWER, all_reduce_rounds, handovers, order_bytes, order_parent
from mpsplit.plan.price.sizes import ACTIVATION, Job
from mpsplit.plan.shards import Plan

Cause = int | tuple[int, int]  # a rank that computes, or a link


@dataclass(frozen=True)
class Weather:
    """Deviation of every message and every half layer, as a part of its seconds (log-normal, mean
    1); how many times slower some ranks compute."""

    links: float = 0.0
    compute: float = 0.0
    stragglers: dict[int, float] = field(default_factory=dict)
    seed: int = 0

    def check(self, ranks: int) -> Weather:
        for name, value in (("links", self.links), ("compute", self.compute)):
            if not 0 <= value < math.inf:
                raise ClusterError(f"jitter {value:g} of {name} is out of range; give 0 or more, such as 0.2")
        for rank, factor in self.stragglers.items():
            if not 0 <= rank < ranks:
                raise ClusterError(f"straggler {rank} is none of the {ranks} ranks; give one from 0 to {ranks - 1}")
            if not 0 < factor < math.inf:
                raise ClusterError(f"straggler {rank} is {factor:g} times slower; give more than 0, such as {rank}=2.0")
        return self


CALM = Weather()


@dataclass(frozen=True)
class Simulated:
    """`first_token` of the first request; `tokens`: seconds of each token after the first ones;
    shares of `seconds`, prompts and all, by rank; `sent`: bytes from rank to rank; `waited_for`:
    seconds that ranks stood in an all_reduce because of each."""

    first_token: float
    tokens: tuple[float, ...]
    throughput: float
    seconds: float
    computing: tuple[float, ...]
    talking: tuple[float, ...]
    messages: int
    sent: dict[tuple[int, int], int]
    waited_for: dict[Cause, float]

    @property
    def token(self) -> float:
        """The median."""
        return statistics.median(self.tokens)

    @property
    def p99(self) -> float:
        return sorted(self.tokens)[math.ceil(0.99 * len(self.tokens)) - 1]

    @property
    def waiting(self) -> tuple[float, ...]:
        return tuple(max(0.0, 1 - a - b) for a, b in zip(self.computing, self.talking, strict=True))

    @property
    def wire_bytes(self) -> int:
        return sum(self.sent.values())

    @property
    def slowest(self) -> Cause | None:
        """Whom the others waited for most, if they waited."""
        return max(self.waited_for, key=self.waited_for.__getitem__, default=None)


def simulate(
    facts: ModelFacts,
    plan: Plan,
    cluster: Cluster,
    job: Job,
    weather: Weather = CALM,
    tokens: int = 8,
    requests: int = 1,
) -> Simulated:
    """`requests` prompts, one after the other, then `tokens` tokens of each, in turns; all tokens
    stand at the job's position."""
    for name, value in (("tokens", tokens), ("requests", requests), ("prompt", job.prompt), ("chunk", job.chunk)):
        if value < 1:
            raise PlanError(f"--{name} {value} is out of range; it must be at least 1")
    if job.context < job.prompt + tokens:
        raise PlanError(
            f"a prompt of {job.prompt} and {tokens} tokens do not fit in a context of {job.context}; "
            f"use --context {job.prompt + tokens} or more"
        )
    if plan.ranks != cluster.size:
        raise PlanError(
            f"the plan has {plan.ranks} ranks, the cluster {cluster.size} devices; plan for {cluster.size} ranks"
        )
    clocks = _Clocks(facts, plan, cluster, job, weather.check(plan.ranks))
    answers: list[list[float]] = []
    for _ in range(requests):
        clocks.choose(0.0)
        for start in range(0, job.prompt, job.chunk):
            clocks.step(min(job.chunk, job.prompt - start), start)
        answers.append([clocks.answer()])
    for _ in range(tokens):
        for own in answers:
            clocks.choose(own[-1])
            clocks.step(1, job.position)
            own.append(clocks.answer())
    return _outcome(clocks, answers)


def _outcome(clocks: _Clocks, answers: Sequence[Sequence[float]]) -> Simulated:
    seconds, last = max(answers[-1][-1], *clocks.at, 0.0), answers[-1]
    settled = (len(last) - 1) // 2  # by then the pipeline has settled down after the prompts
    return Simulated(
        first_token=answers[0][0],
        tokens=tuple(own[i] - own[i - 1] for i in range(1, len(last)) for own in answers),
        throughput=len(answers) * (len(last) - 1 - settled) / (last[-1] - last[settled]),
        seconds=seconds,
        computing=tuple(spent / seconds for spent in clocks.computed),
        talking=tuple(spent / seconds for spent in clocks.talked),
        **clocks.traffic(),
        waited_for=dict(clocks.waited_for),
    )


@dataclass(frozen=True)
class _Round:
    """`meetings`: rank, rank, seconds. `usual`: the seconds that are nobody's fault: of the
    quickest, or none where not all ranks meet."""

    meetings: list[tuple[int, int, float]]
    usual: float


@dataclass(frozen=True)
class _StageStep:
    """A step of so many rows in one stage: seconds of each of its ranks, and its all_reduce."""

    layers: int
    attention: list[tuple[int, float]]
    mlp: list[tuple[int, float]]
    head: list[tuple[int, float]]
    rounds: list[_Round]
    size: int


class _Clocks:
    """Where each rank's clock stands, and what moved it there."""

    def __init__(self, facts: ModelFacts, plan: Plan, cluster: Cluster, job: Job, weather: Weather):
        self.facts, self.plan, self.cluster, self.job = facts, plan, cluster, job
        self.slower = [weather.stragglers.get(rank, 1.0) for rank in range(plan.ranks)]
        chance = random.Random(weather.seed)
        self.link_jitter, self.jitter = _deviation(chance, weather.links), _deviation(chance, weather.compute)
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

    def traffic(self) -> dict:
        """`messages` and bytes `sent`, by source and target."""
        sent: defaultdict[tuple[int, int], float] = defaultdict(float)
        messages = self.posted.total()
        for (source, target, size), times in self.posted.items():
            sent[source, target] += times * size
        for (number, size), times in self.sums.items():
            for message in (m for meeting in all_reduce_rounds(self.plan.stages[number], size) for m in meeting):
                sent[message.source, message.target] += times * message.size
                messages += times
        return {"messages": messages, "sent": {pair: int(size) for pair, size in sent.items()}}

    # -- a stage ----------------------------------------------------------------------------------

    def _stage(self, number: int, rows: int, position: int) -> int:
        """Bytes of what it hands on."""
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
        members = [(rank, self.plan.shards[rank], self.cluster.devices[rank], self.slower[rank]) for rank in group]
        size = rows * facts.hidden * ACTIVATION
        return _StageStep(
            len(members[0][1].layers),
            [
                (r, k * attention_seconds(facts, d, len(s.heads), len(s.kv_heads), rows, position, job))
                for r, s, d, k in members
            ],
            [(r, k * mlp_seconds(facts, d, len(s.mlp), rows, job)) for r, s, d, k in members],
            [(r, k * head_seconds(facts, d, len(s.head), job)) for r, s, d, k in members if len(s.head)],
            _rounds(self.cluster, group, size),
            size,
        )

    def _compute(self, work: Sequence[tuple[int, float]]) -> None:
        at, cause, computed, jitter = self.at, self.cause, self.computed, self.jitter
        for rank, seconds in work:
            if jitter:
                seconds *= jitter()
            at[rank] += seconds
            cause[rank] = rank
            computed[rank] += seconds

    # -- messages ---------------------------------------------------------------------------------

    def _all_reduce(self, rounds: Sequence[_Round]) -> None:
        """Whoever is done with its meeting of a round goes to that of the next one, whether the
        others are done or not. Both leave as late as the late one came, and by the same cause,
        unless the link has cost more than the wait."""
        at, cause, talked, jitter = self.at, self.cause, self.talked, self.link_jitter
        for one in rounds:
            for a, b, seconds in one.meetings:
                if jitter:
                    seconds *= jitter()
                late, early = (a, b) if at[a] >= at[b] else (b, a)
                wait = at[late] - at[early]
                if wait:
                    self.waited_for[cause[late]] += wait
                at[a] = at[b] = at[late] + seconds
                cause[a] = cause[b] = (a, b) if seconds - one.usual > wait else cause[late]
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
        """When it arrives."""
        link = self.cluster.link(source, target)
        seconds = link.time(size)
        if self.link_jitter:
            seconds *= self.link_jitter()
        begin = max(ready, self.clear.get((source, target), 0.0))
        self.clear[source, target] = begin + max(0.0, seconds - link.time(0))
        self.posted[source, target, size] += 1
        return begin + seconds


def _rounds(cluster: Cluster, group: Sequence[int], size: int) -> list[_Round]:
    """Of an all_reduce; the two messages of an exchange are one meeting, as long as the
    longer one."""
    rounds = []
    for messages in all_reduce_rounds(group, size):
        longest: dict[tuple[int, int], float] = {}
        for m in messages:
            pair = min(m.source, m.target), max(m.source, m.target)
            longest[pair] = max(longest.get(pair, 0.0), cluster.link(*pair).time(m.size))
        usual = min(longest.values()) if 2 * len(longest) == len(group) else 0.0
        rounds.append(_Round([(a, b, seconds) for (a, b), seconds in longest.items()], usual))
    return rounds


def _deviation(chance: random.Random, deviation: float) -> Callable[[], float] | None:
    """Draws factors of mean 1, or nothing where there is no deviation."""
    if not deviation:
        return None
    variance = math.log1p(deviation**2)
    middle, width = -variance / 2, math.sqrt(variance)
    return lambda: math.exp(chance.gauss(middle, width))
