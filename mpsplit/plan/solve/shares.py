"""How the ranks of one stage divide it in the least time that their memory allows.

In: devices, layers. Out: shares.

A stage has parts: query heads, MLP columns, rows of the head. They are divided in whole steps, and
tables say what so many steps cost each device. Every number in the tables comes from cost.py and
sizes.py.

Where the fastest division of each part fits the memory, it is the answer. Where it does not,
scipy's milp divides all parts at once (fitting.py): exactly for parts of few steps, and along a
straight line just above the table for parts of many. Rows of the embedding cost no time and little
memory. They are divided evenly, or as the head where it is tied. Every rank takes a step of heads
and of columns at least. Invariant: a share that comes out of here fits its device by sizes.memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from mpsplit.plan.cluster import Device
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import attention_seconds, head_seconds, mlp_seconds
from mpsplit.plan.price.sizes import Job, memory
from mpsplit.plan.shards import Range, Shard, Share
from mpsplit.plan.solve.fitting import FEW, divide_together, fits, used_bytes
from mpsplit.plan.solve.stage_part import Floats, Ints, StagePart
from mpsplit.plan.steps import divide, in_elements


@dataclass(frozen=True)
class Divided:
    """Shares of the members of a stage, in order.

    `value` is what they were chosen for: seconds, or the fullest device's part.
    """

    shares: tuple[Share, ...]
    value: float


class Tables:
    """The tables of a model, a job and devices, each made when it is first needed.

    (rows, position) is the step that is timed.
    """

    def __init__(self, facts: ModelFacts, job: Job, devices: Sequence[Device], rows: int, position: int):
        self.facts, self.job, self.devices = facts, job, devices
        self.straight = False  # whether a division has taken a table for a straight line
        self._timed: dict[str, Callable[[Device, dict[str, int]], float]] = {
            "heads": lambda device, counts: attention_seconds(
                facts, device, counts["heads"], counts["kv_heads"], rows, position, job
            ),
            "mlp": lambda device, counts: mlp_seconds(facts, device, counts["mlp"], rows, job),
            "head": lambda device, counts: head_seconds(facts, device, counts["head"], job),
        }
        self.seconds, self._bytes, self.fixed = cache(self._make_seconds), cache(self._make_bytes), cache(self._fixed)

    def parts(self, group: tuple[int, ...], owners: tuple[int, ...]) -> list[StagePart]:
        """What `group` divides.

        `owners` are the members that may take rows of the head; none where the stage is not the
        last.
        """
        steps, everyone = self.job.steps(self.facts, len(group)), tuple(range(len(group)))
        whole = [("mlp", everyone, self.facts.mlp, steps.mlp, 1)]
        if owners:
            whole.append(("head", owners, self.facts.vocabulary, steps.vocabulary, 0))
        per_kv_head, start = self.facts.heads // self.facts.kv_heads, 0
        for ranks in steps.dealt:
            whole.append(("heads", everyone[start : start + ranks], per_kv_head, steps.heads, 1))
            start += ranks
        if not steps.dealt:
            whole.append(("heads", everyone, self.facts.heads, steps.heads, 1))
        return [
            StagePart(
                name, members, -(-size // step), least,
                tuple(self.seconds(name, group[i], size, step) for i in members), *self._bytes(name, size, step),
            )
            for name, members, size, step, least in whole
        ]  # fmt: skip

    def free(self, group: tuple[int, ...], layers: int, first: bool) -> list[int]:
        """Bytes that each member has for its parts."""
        rows = self.embed_rows(len(group)) if first else [0] * len(group)
        return [
            self.devices[d].memory_bytes - self.fixed(d, layers, count) for d, count in zip(group, rows, strict=True)
        ]

    def embed_rows(self, ranks: int) -> list[int]:
        return divide(self.facts.vocabulary, self.job.steps(self.facts, ranks).vocabulary, [1.0] * ranks)

    def _make_seconds(self, name: str, device: int, size: int, step: int) -> Floats:
        return np.array([self._timed[name](self.devices[device], n) for n in self._counts(name, size, step)])

    def _make_bytes(self, name: str, size: int, step: int) -> tuple[Ints, Ints]:
        """What steps add to the memory of a rank: once, and for each layer."""
        counts = self._counts(name, size, step)
        totals = [np.array([self._total(layers, **n) for n in counts]) for layers in (0, 1)]
        once, with_layer = (total - total[0] for total in totals)
        return once, with_layer - once

    def _counts(self, name: str, size: int, step: int) -> list[dict[str, int]]:
        per_kv_head = self.facts.heads // self.facts.kv_heads
        counts = [min(k * step, size) for k in range(-(-size // step) + 1)]
        return [{name: n} | ({"kv_heads": -(-n // per_kv_head)} if name == "heads" else {}) for n in counts]

    def _fixed(self, device: int, layers: int, embed: int) -> int:
        """Bytes of a rank that has rows of the embedding and nothing else."""
        return self._total(layers, embed=embed) + self.devices[device].process_bytes

    def _total(self, layers: int, **counts: int) -> int:
        ranges = {name: Range(0, counts.get(name, 0)) for name in ("heads", "kv_heads", "mlp", "embed", "head")}
        device = self.devices[0]
        return (
            memory(self.facts, Shard(0, 0, Range(0, layers), **ranges), device, self.job).total - device.process_bytes
        )


def stage_value(parts: Sequence[StagePart], counts: Sequence[Ints], layers: int) -> float:
    """Seconds of a stage: of each part its slowest member."""
    slowest: dict[str, float] = {}
    for part, steps in zip(parts, counts, strict=True):
        seconds = max(table[k] for table, k in zip(part.seconds, steps, strict=True))
        slowest[part.name] = max(seconds, slowest.get(part.name, 0.0))
    return layers * (slowest["heads"] + slowest["mlp"]) + slowest.get("head", 0.0)


def divide_stage(
    tables: Tables, group: tuple[int, ...], layers: int, first: bool, owners: tuple[int, ...], fullest: bool = False
) -> Divided | None:
    """The fastest division that fits; nothing where none does.

    With `fullest`, the one whose fullest device is the least full.
    """
    parts = tables.parts(group, owners)
    if any(part.count < part.least * len(part.members) for part in parts):
        return None
    free = tables.free(group, layers, first)
    sizes = [tables.devices[d].memory_bytes for d in group]
    counts = [fastest(part) for part in parts]
    if fullest and len(group) > 1 or not fits(parts, counts, layers, free):
        tables.straight |= any(part.count > FEW for part in parts)
        fitting = divide_together(parts, layers, free, sizes, fullest)
        if fitting is None:
            return None
        counts = fitting
    left = np.array(free) - used_bytes(parts, counts, layers, len(group))
    value = float(max(1 - left / np.array(sizes))) if fullest else stage_value(parts, counts, layers)
    return Divided(_shares(tables, parts, counts, group, first), value)


def fastest(part: StagePart) -> Ints:
    """Steps for each member so that the slowest is done as early as can be, memory aside."""
    counts = np.full(len(part.members), part.least)
    rest = part.count - counts.sum()
    later = [table[part.least + 1 : part.least + 1 + rest] for table in part.seconds]
    if not rest:
        return counts
    until = np.partition(np.concatenate(later), rest - 1)[rest - 1]
    counts += [np.searchsorted(table, until, side="right") for table in later]
    for _ in range(counts.sum() - part.count):  # members that end at the same time
        ends = [table[k] if k > part.least else -1.0 for table, k in zip(part.seconds, counts, strict=True)]
        counts[int(np.argmax(ends))] -= 1
    return counts


def _shares(
    tables: Tables, parts: Sequence[StagePart], counts: Sequence[Ints], group: tuple[int, ...], first: bool
) -> tuple[Share, ...]:
    facts, steps = tables.facts, tables.job.steps(tables.facts, len(group))
    wholes = {
        "heads": (facts.heads // facts.kv_heads if steps.dealt else facts.heads, steps.heads),
        "mlp": (facts.mlp, steps.mlp),
        "head": (facts.vocabulary, steps.vocabulary),
    }
    taken = {name: [0] * len(group) for name in wholes}
    for part, given in zip(parts, counts, strict=True):
        for i, elements in zip(part.members, in_elements([int(k) for k in given], *wholes[part.name]), strict=True):
            taken[part.name][i] = elements
    tied = facts.tied and any(part.name == "head" for part in parts)
    rows = taken["head"] if tied else tables.embed_rows(len(group))
    taken["embed"] = rows if first else [0] * len(group)
    return tuple(Share(**{name: counts[i] for name, counts in taken.items()}) for i in range(len(group)))
