"""In what steps a stage's weights may be cut among its ranks, and how to divide steps.

In: a model, speeds. Out: sizes of steps, counts.

Where there are enough KV heads for the ranks, a rank takes whole ones, with all their query heads.
Where there are not, each KV head is dealt to several ranks. They all hold it, and divide its query
heads. MLP columns and rows of the vocabulary go by the block of the quantisation. Invariant: a step
that would leave ranks without any work is made smaller, unless it would cut blocks apart that are
to stay whole.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from mpsplit.plan.model_facts import ModelFacts

BLOCK = 32  # weights that share a scale (package/stored/quantisation.py), at the least


@dataclass(frozen=True)
class StepSizes:
    """Elements of one step: query heads, MLP columns, rows of the vocabulary.

    `dealt`: how many ranks share each KV head, or nothing where each rank takes whole ones.
    """

    heads: int
    mlp: int
    vocabulary: int
    dealt: tuple[int, ...] = ()


def steps_of(facts: ModelFacts, ranks: int, block: int = BLOCK, whole_blocks: bool = False) -> StepSizes:
    """`whole_blocks`: inputs of the linears after heads and MLP columns are cut between blocks."""
    if whole_blocks:
        return _whole_blocks(facts, ranks, block)
    per_kv_head = facts.heads // facts.kv_heads
    dealt = () if ranks <= facts.kv_heads else tuple(even(ranks, facts.kv_heads))
    return StepSizes(
        heads=per_kv_head if not dealt else _head_step(facts, per_kv_head, max(dealt), block),
        mlp=_step(facts.mlp, ranks, block),
        vocabulary=_step(facts.vocabulary, ranks, block),
        dealt=dealt,
    )


def _whole_blocks(facts: ModelFacts, ranks: int, block: int) -> StepSizes:
    """Where the ranks of a KV head cannot have whole blocks of it, it stays with one of them."""
    steps, queries = steps_of(facts, ranks, block), facts.heads // facts.kv_heads
    mlp, vocabulary = block, _step(facts.vocabulary, ranks, BLOCK)
    if steps.dealt and not steps.heads * facts.head_dim % block:
        return StepSizes(steps.heads, mlp, vocabulary, steps.dealt)
    return StepSizes(math.lcm(queries * facts.head_dim, block) // facts.head_dim, mlp, vocabulary)


def divide(whole: int, step: int, speeds: Sequence[float]) -> list[int]:
    """Elements for each of `speeds`, in whole steps: the slowest is done as early as can be.

    The last step may be short.
    """
    count = -(-whole // step)
    given = [int(count * speed / sum(speeds)) for speed in speeds]
    waiting = [((n + 1) / speed, i) for i, (n, speed) in enumerate(zip(given, speeds, strict=True)) if speed > 0]
    heapq.heapify(waiting)
    for _ in range(count - sum(given)):
        _, i = waiting[0]
        given[i] += 1
        heapq.heapreplace(waiting, ((given[i] + 1) / speeds[i], i))
    return in_elements(given, whole, step)


def in_elements(counts: Sequence[int], whole: int, step: int) -> list[int]:
    """Steps as elements; the last step of all may be short."""
    stops = [min(stop * step, whole) for stop in accumulate(counts, initial=0)]
    return [stop - start for start, stop in zip(stops, stops[1:], strict=False)]


def divide_heads(facts: ModelFacts, steps: StepSizes, speeds: Sequence[float]) -> list[int]:
    """Query heads for each of `speeds`."""
    if not steps.dealt:
        return divide(facts.heads, steps.heads, speeds)
    heads: list[int] = []
    for ranks in steps.dealt:
        heads += divide(facts.heads // facts.kv_heads, steps.heads, speeds[len(heads) : len(heads) + ranks])
    return heads


def even(whole: int, parts: int) -> list[int]:
    """`parts` numbers that differ by one at most, the larger ones first."""
    size, larger = divmod(whole, parts)
    return [size + (i < larger) for i in range(parts)]


def _head_step(facts: ModelFacts, queries: int, ranks: int, block: int) -> int:
    """The largest step of a KV head's query heads that leaves one for each of its ranks.

    In whole blocks, where that can be.
    """
    fitting = [*(n for n in range(queries, 1, -1) if queries % n == 0 and queries // n >= ranks), 1]
    return next((n for n in fitting if n * facts.head_dim % block == 0), fitting[0])


def _step(whole: int, ranks: int, block: int) -> int:
    return block if whole >= ranks * block else 1
