"""A plan played out message by message, on machines that nobody here owns.

In: a model, a plan, machines, a job, their weather. Out: what happened: seconds, bytes, and whom
everybody waited for.

rank_clocks.py moves the clocks of a step. Here are the steps of prompts and tokens, and what they
come to. Invariant: in calm weather no time is longer than cost.py's, and none is shorter where
ranks and links are alike. One message a step is the exception, where the first stage has 5, 9, 10,
11 ... ranks: their folding does not wait for the last of them to hear the order.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mpsplit.errors import PlanError
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.rank_clocks import Cause, RankClocks
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.price.weather import CALM, Weather
from mpsplit.plan.shards import Plan


@dataclass(frozen=True)
class Simulated:
    """What happened.

    `first_token`: of the first request. `tokens`: seconds of each token after the first ones.
    `computing` and `talking`: shares of `seconds`, prompts and all, by rank. `sent`: bytes from
    rank to rank. `waited_for`: seconds that ranks stood in an all_reduce because of each cause.
    """

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
    """`requests` prompts, one after the other, then `tokens` tokens of each, in turns.

    All tokens stand at the job's position.
    """
    _check(plan, cluster, job, tokens, requests)
    clocks = RankClocks(facts, plan, cluster, job, weather.check(plan.ranks))
    answers: list[list[float]] = []  # when each request's tokens were there
    for _ in range(requests):
        clocks.choose(0.0)
        for start in range(0, job.prompt, job.chunk):
            clocks.step(min(job.chunk, job.prompt - start), start)
        answers.append([clocks.answer()])
    for _ in range(tokens):
        for times in answers:
            clocks.choose(times[-1])
            clocks.step(1, job.position)
            times.append(clocks.answer())
    return _outcome(clocks, answers)


def _check(plan: Plan, cluster: Cluster, job: Job, tokens: int, requests: int) -> None:
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


def _outcome(clocks: RankClocks, answers: Sequence[Sequence[float]]) -> Simulated:
    """`answers`: when each request's tokens were there."""
    messages, sent = clocks.traffic()
    seconds, last = max(answers[-1][-1], *clocks.at, 0.0), answers[-1]
    settled = (len(last) - 1) // 2  # by then the pipeline has settled down after the prompts
    return Simulated(
        first_token=answers[0][0],
        tokens=tuple(times[i] - times[i - 1] for i in range(1, len(last)) for times in answers),
        throughput=len(answers) * (len(last) - 1 - settled) / (last[-1] - last[settled]),
        seconds=seconds,
        computing=tuple(spent / seconds for spent in clocks.computed),
        talking=tuple(spent / seconds for spent in clocks.talked),
        messages=messages,
        sent=sent,
        waited_for=dict(clocks.waited_for),
    )
