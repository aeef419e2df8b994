"""What any group of devices would take for any number of layers, as far as anybody has looked.

In: a goal. Out: vectors over layers.

To divide a stage exactly costs milliseconds, and a search meets thousands of stages of which few
come near the best plan. So a stage starts with a bound that is quick to compute and that no
division can beat: it counts memory only in sum. The stage is divided exactly once a search wants to
use it. Invariant: an entry of a vector is never above what the stage really takes, and it only
rises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.message_times import ANSWER, all_reduce_seconds, handover_seconds, order_seconds
from mpsplit.plan.price.sizes import ACTIVATION, Job
from mpsplit.plan.solve.shares import Divided, Tables, divide_stage, fastest
from mpsplit.plan.solve.stage_part import Floats, StagePart

EXACT_BOUND = 64  # steps of a part up to which its bound is its fastest division
OWNERS = 6  # sets of members that may own the head are all tried up to so many
EACH_LINK = 8  # ranks of two stages up to which handing on is looked up link by link


@dataclass(frozen=True)
class Goal:
    """What a plan is searched by.

    (rows, position) is the step that counts. `combine`: how stages add up. `answers`: whether the
    answers to rank 0 count. `fullest`: not seconds count, but how full the fullest device is.
    """

    rows: int
    position: int
    combine: np.ufunc = np.add
    answers: bool = True
    fullest: bool = False


@dataclass(frozen=True)
class StageKey:
    """All that the division of a stage depends on.

    `answers`: seconds until rank 0 hears of each member's part of the head.
    """

    group: tuple[int, ...]
    first: bool
    answers: tuple[float, ...] = ()


class StageTimes:
    """Bounds and divisions of the stages of one model on one cluster, each made when needed."""

    def __init__(self, facts: ModelFacts, cluster: Cluster, job: Job, goal: Goal):
        self.facts, self.cluster, self.goal = facts, cluster, goal
        self.tables = Tables(facts, job, cluster.devices, goal.rows, goal.position)
        self.bytes = goal.rows * facts.hidden * ACTIVATION
        values = [replace(device, name="", host="") for device in cluster.devices]
        self.twin = [values.index(value) for value in values]  # the first device that is alike
        self.layers = np.arange(facts.layers + 1)
        self._bounds: dict[StageKey, Floats] = {}
        self._divided: dict[tuple[StageKey, int], Divided | None] = {}
        self.sums, self.hop, self.opening = cache(self._sums), cache(self._hop), cache(self._opening)
        self._key, self._bytes_line = cache(self._make_key), cache(self._make_bytes_line)
        self._lines: dict[int, tuple[float, float]] = {}

    def vector(self, group: tuple[int, ...], first: bool, lead: int | None) -> Floats:
        """By number of layers, without handing on; `lead` is given only for the last stage."""
        bound: Floats = self._bound(self._key(group, first, lead)[0])
        return bound + (2 * self.layers + first) * self.sums(group)

    def known(self, group: tuple[int, ...], first: bool, lead: int | None, layers: int) -> bool:
        return (self._key(group, first, lead)[0], layers) in self._divided

    def divide(self, group: tuple[int, ...], first: bool, lead: int | None, layers: int) -> Divided | None:
        """The stage divided as exactly as shares.py can, in the order of `group`.

        Its vector rises to what that takes.
        """
        key, order = self._key(group, first, lead)
        if (key, layers) not in self._divided:
            divided = self._divided[key, layers] = self._divide(key, layers)
            self._raise(key, layers, divided.value if divided else np.inf)
        divided = self._divided[key, layers]
        place = {member: i for i, member in enumerate(order)}
        return divided and replace(divided, shares=tuple(divided.shares[place[i]] for i in range(len(group))))

    def _make_key(self, group: tuple[int, ...], first: bool, lead: int | None) -> tuple[StageKey, list[int]]:
        """Members that are alike stand for each other; also their order in the key.

        Where order does not matter, the roomiest comes first.
        """
        answers = [0.0 if lead is None else self._answer(lead, d) for d in group]
        order = list(range(len(group)))
        if len(group) <= self.facts.kv_heads:
            order.sort(key=lambda i: (-self._room(group[i]), self.twin[group[i]], answers[i], i))
        in_order = () if lead is None else tuple(answers[i] for i in order)
        return StageKey(tuple(self.twin[group[i]] for i in order), first, in_order), order

    def _room(self, device: int) -> int:
        return self.cluster.devices[device].memory_bytes - self.cluster.devices[device].process_bytes

    def _answer(self, lead: int, device: int) -> float:
        return self.cluster.link(lead, device).time(ANSWER) if self.goal.answers and device != lead else 0.0

    def _sums(self, group: tuple[int, ...]) -> float:
        """Of one all_reduce."""
        return 0.0 if len(group) == 1 or self.goal.fullest else all_reduce_seconds(self.cluster, group, self.bytes)

    def _hop(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        if self.goal.fullest:
            return 0.0
        if len(before) + len(after) <= EACH_LINK:
            return handover_seconds(self.cluster, before, after, self.bytes)
        return -(-len(after) // len(before)) * self.cluster.link(before[-1], after[0]).time(self.bytes)

    def _opening(self, group: tuple[int, ...]) -> float:
        """What rank 0 adds to every token, the answer aside."""
        if self.goal.fullest:
            return 0.0
        lead = self.cluster.devices[group[0]]
        return order_seconds(self.cluster.only(group), range(len(group)), self.goal.rows) + lead.step_seconds.value

    def _bound(self, key: StageKey) -> Floats:
        if key not in self._bounds:
            self._bounds[key] = self._quick_bound(key)
        return self._bounds[key]

    def _quick_bound(self, key: StageKey) -> Floats:
        parts = self.tables.parts(key.group, tuple(range(len(key.group))) if key.answers else ())
        if any(part.count < part.least * len(part.members) for part in parts):
            return np.full(len(self.layers), np.inf)
        lines = [self._bytes_line(part.name, part.count, len(key.group)) for part in parts]
        once, a_layer = np.sum(lines, axis=0)
        free, less = (np.array(self.tables.free(key.group, n, key.first)) for n in (0, 1))
        room = free[:, None] - np.outer(free - less, self.layers)
        needed = once + a_layer * self.layers
        wrong = (room.min(axis=0) < 0) | (needed > room.sum(axis=0)) | (self.layers == 0)
        sizes = sum(self.tables.devices[d].memory_bytes for d in key.group)
        value = 1 - (room.sum(axis=0) - needed) / sizes
        if not self.goal.fullest:
            value = self.layers * self._per_layer(key) + self._least_head(key)
        return np.where(wrong, np.inf, value)

    def _per_layer(self, key: StageKey) -> float:
        """Seconds a layer at the least: none where it is memory that counts."""
        if self.goal.fullest:
            return 0.0
        least: dict[str, float] = {}
        for part in self.tables.parts(key.group, ()):
            least[part.name] = max(least.get(part.name, 0.0), self._least_seconds(part))
        return sum(least.values())

    def _least_head(self, key: StageKey) -> float:
        return min((seconds for seconds, _ in self._owners(key)), default=0.0)

    def _owners(self, key: StageKey) -> list[tuple[float, tuple[int, ...]]]:
        """Sets of members that may own the head, the most hopeful first.

        With the seconds that the head and its answers take at the least.
        """
        limits = sorted(set(key.answers))
        sets = []
        for limit in limits if len(limits) <= OWNERS else limits[-1:]:
            owners = tuple(i for i, answer in enumerate(key.answers) if answer <= limit)
            head = next(part for part in self.tables.parts(key.group, owners) if part.name == "head")
            sets.append((limit + self._least_seconds(head), owners))
        return sorted(sets)

    def _least_seconds(self, part: StagePart) -> float:
        """No division of the part is done earlier."""
        if part.count <= EXACT_BOUND:
            return float(max(table[k] for table, k in zip(part.seconds, fastest(part), strict=True)))
        starts, slopes = np.array([self._line(table) for table in part.seconds]).T
        level = (part.count + (starts / slopes).sum()) / (1 / slopes).sum()
        return float(max(level, *(table[part.least] for table in part.seconds)))

    def _line(self, table: Floats) -> tuple[float, float]:
        """From the table's first entry, the steepest line that no entry lies below."""
        if id(table) not in self._lines:  # the tables live as long as we do
            self._lines[id(table)] = table[0], ((table[1:] - table[0]) / np.arange(1, len(table))).min()
        return self._lines[id(table)]

    def _make_bytes_line(self, name: str, count: int, ranks: int) -> tuple[float, float]:
        """What a part adds at the least to its members' memory: once, and for each layer."""
        part = next(
            p for p in self.tables.parts((0,) * ranks, tuple(range(ranks))) if (p.name, p.count) == (name, count)
        )
        step = np.arange(1, count + 1)
        return count * (part.once[1:] / step).min(), count * (part.per_layer[1:] / step).min()

    def _divide(self, key: StageKey, layers: int) -> Divided | None:
        if not np.isfinite(self._bound(key)[layers]):
            return None
        best = None
        for least, owners in self._owners(key) or [(0.0, ())]:
            if best and layers * self._per_layer(key) + least >= best.value:
                break
            divided = divide_stage(self.tables, key.group, layers, key.first, owners, self.goal.fullest)
            if divided:
                answered = max((key.answers[i] for i in owners if divided.shares[i].head), default=0.0)
                divided = replace(divided, value=divided.value + answered)
                best = divided if best is None or divided.value < best.value else best
        return best

    def _raise(self, key: StageKey, layers: int, value: float) -> None:
        """More layers take no less than these.

        And each one more takes at least the seconds of a layer without regard to memory.
        """
        bound = self._bound(key)
        more = np.arange(self.facts.layers + 1 - layers)
        if np.isinf(value):
            bound[layers:] = np.inf
            return
        bound[layers:] = np.maximum(bound[layers:], value + more * self._per_layer(key))
