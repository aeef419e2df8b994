"""What both pictures of a plan say in words and numbers.

In: a plan and its cost. Out: text.

Numbers have three figures and a unit. Invariant: each number is that of the Cost, rounded.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.draw.plan_columns import Column, StageBlock
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost
from mpsplit.plan.price.message_times import handovers
from mpsplit.plan.price.sizes import ACTIVATION, Job
from mpsplit.plan.shards import Plan

BYTE_UNITS = ("bytes", "KiB", "MiB", "GiB")
SECOND_UNITS = (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6))


def sums_text(cost: Cost, block: StageBlock) -> str:
    """What the ranks of a stage tell each other for a token."""
    if len(block.group) == 1:
        return "one rank, no sums"
    members = set(block.group)
    size = sum(count for pair, count in cost.wire.items() if members.issuperset(pair))
    if not len(block.layers):
        return f"1 sum: {bytes_text(size)} a token" if size else "no sums"
    return f"{'each ' * (len(block.stages) > 1)}2 sums a layer, {bytes_text(size)} a token"


def handed_text(facts: ModelFacts, plan: Plan, stage: int) -> str:
    """What a stage hands to the next for a token."""
    count, size = len(handovers(plan.stages[stage], plan.stages[stage + 1])), facts.hidden * ACTIVATION
    return f"{bytes_text(size)} a token" if count == 1 else f"{count} x {bytes_text(size)} a token"


def slowest(cost: Cost) -> set[int]:
    """The ranks that compute longest for a token, to a hundredth."""
    return {rank for rank, busy in enumerate(cost.busy) if busy > 0.99 * max(cost.busy)}


def slowest_text(cost: Cost) -> str:
    ranks = sorted(slowest(cost))
    if len(ranks) == len(cost.busy):
        who = "all ranks are equally fast" if len(ranks) > 1 else "one rank"
    else:
        who = f"slowest {'is' if len(ranks) == 1 else 'are'} {Column(tuple(ranks)).name}"
    return f"{who}, computing {seconds_text(max(cost.busy))} of each token"


def times_of(cost: Cost) -> list[tuple[str, str, float]]:
    """What the time of a token goes to: a key, words, seconds."""
    return [
        ("compute", "computing", sum(stage.compute for stage in cost.stages)),
        ("talk", "sums", sum(stage.collectives for stage in cost.stages)),
        ("handing", "handing on", sum(stage.handing_on for stage in cost.stages)),
        ("orders", "rank 0's orders", cost.orders),
    ]


def model_text(facts: ModelFacts, plan: Plan, job: Job, name: str) -> str:
    model = name or facts.architecture.removesuffix("ForCausalLM")
    return f"{model}, {facts.layers} layers, {job.stored}, on {plan.ranks:,} rank{'s' * (plan.ranks > 1)}"


def speed_text(cluster: Cluster, cost: Cost) -> str:
    guess = "" if cluster.measured else " (a guess: nobody has measured these machines)"
    return f"predicted: {_figures(1 / cost.token)} tok/s, first token after {seconds_text(cost.first_token)}{guess}"


def bytes_text(count: float) -> str:
    for unit in BYTE_UNITS[:-1]:
        if count < 1000:
            return f"{_figures(count)} {unit}"
        count /= 1024
    return f"{_figures(count)} {BYTE_UNITS[-1]}"


def gib_text(count: float) -> str:
    return f"{count / 2**30:.1f}" if count >= 2**30 else f"{count / 2**30:.2f}"


def seconds_text(seconds: float) -> str:
    unit, size = next((pair for pair in SECOND_UNITS if seconds >= pair[1]), SECOND_UNITS[-1])
    return f"{_figures(seconds / size)} {unit}"


def span(values: Iterable[int]) -> str:
    """A number, or the range of numbers that differ."""
    in_order = sorted(values)
    low, high = f"{in_order[0]:,}", f"{in_order[-1]:,}"
    return low if low == high else f"{low} to {high}"


def _figures(value: float) -> str:
    """Three of them."""
    return f"{float(f'{value:.3g}'):,.12g}"
