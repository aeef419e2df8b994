"""A plan says who owns what.

In: numbers and JSON. Out: frozen dataclasses that survive a JSON round trip unchanged.

Plan (the whole) holds one Shard a rank; a Shard holds ranges, never counts. A KV head is on every
rank that has query heads of it. A rank may have no heads, no MLP columns or no rows. A stage may
have no layers, where it has the embedding or the head. Invariant: after `check`, every layer, head,
MLP column and vocabulary row of the model has exactly one owner in its stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from mpsplit.errors import PlanError
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.steps import StepSizes, divide, divide_heads, even, steps_of

PLAN_VERSION = 1
AGAIN = "make it again with `mpsplit plan`"
MOST = 1 << 24  # of anything that a plan counts


@dataclass(frozen=True)
class Range:
    """start..stop, stop excluded; empty when they are equal."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __str__(self) -> str:
        return f"{self.start}..{self.stop}" if len(self) else "-"

    def scaled(self, unit: int) -> Range:
        """The same part, counted in elements of which `unit` make one of ours."""
        return Range(self.start * unit, self.stop * unit)


@dataclass(frozen=True)
class Share:
    """How much of its stage one rank takes: counts of heads, MLP columns, rows of both ends."""

    heads: int
    mlp: int
    embed: int = 0
    head: int = 0


@dataclass(frozen=True)
class Shard:
    """One rank's part.

    `embed` and `head` are rows of the vocabulary: empty outside the first and the last stage.
    """

    rank: int
    stage: int
    layers: Range
    heads: Range
    kv_heads: Range
    mlp: Range
    embed: Range
    head: Range

    @property
    def attentions(self) -> int:
        """How many of the layers have heads here, and so a KV cache: all or none."""
        return len(self.layers) if len(self.heads) else 0


@dataclass(frozen=True)
class Plan:
    shards: tuple[Shard, ...]

    @property
    def ranks(self) -> int:
        return len(self.shards)

    @cached_property
    def stages(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each stage, in order: each stage is one tensor group."""
        groups: list[list[int]] = [[] for _ in range(1 + max(shard.stage for shard in self.shards))]
        for shard in self.shards:
            groups[shard.stage].append(shard.rank)
        return tuple(map(tuple, groups))

    def group(self, rank: int) -> tuple[int, ...]:
        """The ranks that share this rank's layers."""
        return self.stages[self.shards[rank].stage]

    def check(self, facts: ModelFacts) -> Plan:
        """Itself, when it covers the model; otherwise the first hole or overlap, in numbers."""
        if facts.heads % facts.kv_heads:
            raise PlanError(f"{facts.heads} heads do not share {facts.kv_heads} KV heads evenly; no model has such")
        if [s.rank for s in self.shards] != list(range(self.ranks)):
            raise PlanError(
                f"shards are ranks {[s.rank for s in self.shards]}; they must be 0 to {self.ranks - 1} in order"
            )
        if sorted({s.stage for s in self.shards}) != list(range(len(self.stages))):
            raise PlanError(
                f"stages are {sorted({s.stage for s in self.shards})}; they must be 0, 1, 2 ... without a gap"
            )
        stages = [[self.shards[rank] for rank in group] for group in self.stages]
        for stage, shards in enumerate(stages):
            if len({shard.layers for shard in shards}) > 1:
                raise PlanError(f"the ranks of stage {stage} name different layers; a stage has one range of layers")
            if not any(len(part) for shard in shards for part in (shard.layers, shard.embed, shard.head)):
                raise PlanError(f"stage {stage} has no layers, no embedding and no head; leave it out")
            for name, whole in (("heads", facts.heads), ("mlp", facts.mlp)):
                _cover(
                    f"{name} of stage {stage}",
                    [getattr(shard, name) for shard in shards],
                    whole if len(shards[0].layers) else 0,
                )
            for shard in shards:
                _check_kv_heads(shard, facts)
        _cover("layers", [shards[0].layers for shards in stages], facts.layers)
        _cover("embedding rows of stage 0", [shard.embed for shard in stages[0]], facts.vocabulary)
        _cover("head rows of the last stage", [shard.head for shard in stages[-1]], facts.vocabulary)
        for shard in self.shards:
            if len(shard.embed) and shard.stage > 0 or len(shard.head) and shard.stage < len(stages) - 1:
                raise PlanError(
                    f"rank {shard.rank} is in stage {shard.stage}; the embedding belongs to the first stage, the head"
                    " to the last"
                )
        return self

    def to_json(self) -> dict[str, Any]:
        return {"version": PLAN_VERSION, "shards": [asdict(shard) for shard in self.shards]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        if data.get("version") != PLAN_VERSION:
            raise PlanError(f"plan has version {data.get('version')}, this mpsplit reads {PLAN_VERSION}; {AGAIN}")
        entries = data.get("shards")
        if not isinstance(entries, list) or not entries:
            raise PlanError(f"plan has no list of shards; {AGAIN}")
        return cls(tuple(_shard_from(entry, f"shards[{i}]", len(entries) - 1) for i, entry in enumerate(entries)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls.from_json(cls.read(path))

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """What is in a plan's file, the plan and what else `mpsplit plan` put there."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise PlanError(f"there is no plan at {path}; make one with `mpsplit plan MODEL --out {path}`") from None
        except (ValueError, RecursionError) as wrong:  # not JSON, not UTF-8, a number of thousands of digits, too deep
            raise PlanError(f"{path} is not JSON ({wrong}); {AGAIN}") from None
        if not isinstance(data, dict):
            raise PlanError(f"{path} is no plan, but another JSON; {AGAIN}")
        return data


def lay_out(facts: ModelFacts, stages: Sequence[tuple[int, Sequence[Share]]]) -> Plan:
    """The plan of stages that follow each other.

    Each stage is a number of layers and the shares of its ranks, in the order of the ranks.
    """
    shards: list[Shard] = []
    layer = 0
    for stage, (count, shares) in enumerate(stages):
        heads, mlp, embed, head = (
            _following([getattr(share, part) for share in shares]) for part in ("heads", "mlp", "embed", "head")
        )
        layers = Range(layer, layer + count)
        for i in range(len(shares)):
            kv_heads = kv_heads_of(heads[i], facts)
            shards.append(Shard(len(shards), stage, layers, heads[i], kv_heads, mlp[i], embed[i], head[i]))
        layer += count
    return Plan(tuple(shards)).check(facts)


def kv_heads_of(heads: Range, facts: ModelFacts) -> Range:
    """The KV heads that serve these query heads."""
    per_kv_head = facts.heads // facts.kv_heads
    return Range(heads.start // per_kv_head, -(-heads.stop // per_kv_head)) if len(heads) else Range(0, 0)


def even_plan(facts: ModelFacts, tensor: int, pipeline: int, steps: StepSizes | None = None) -> Plan:
    """tensor x pipeline ranks of equal width, as even as it goes in these steps; in smaller ones
    where they leave ranks without any work."""
    if tensor < 1 or pipeline < 1:
        raise PlanError(f"--tensor {tensor} --pipeline {pipeline}: both must be at least 1")
    if pipeline > max(1, facts.layers):
        raise PlanError(
            f"{facts.layers} layers do not make {pipeline} pipeline stages; use --pipeline {facts.layers} or fewer"
        )
    alike, none = [1.0] * tensor, [0] * tensor
    heads, mlp = _even_shares(facts, steps or steps_of(facts, tensor), alike) if facts.layers else (none, none)
    if facts.layers and not (all(heads) and all(mlp)):
        heads, mlp = _even_shares(facts, steps_of(facts, tensor), alike)
    rows = divide(facts.vocabulary, steps_of(facts, tensor).vocabulary, alike)
    stages = []
    for stage, layers in enumerate(even(facts.layers, pipeline)):
        embed, head = rows if stage == 0 else none, rows if stage == pipeline - 1 else none
        stages.append((layers, [Share(*counts) for counts in zip(heads, mlp, embed, head, strict=True)]))
    return lay_out(facts, stages)


def _even_shares(facts: ModelFacts, steps: StepSizes, alike: list[float]) -> tuple[list[int], list[int]]:
    return divide_heads(facts, steps, alike), divide(facts.mlp, steps.mlp, alike)


def _following(counts: Sequence[int]) -> list[Range]:
    """Ranges of these lengths, one after the other."""
    stops = list(accumulate(counts))
    return [Range(stop - count, stop) for count, stop in zip(counts, stops, strict=True)]


def _check_kv_heads(shard: Shard, facts: ModelFacts) -> None:
    queries = facts.heads // facts.kv_heads  # of each KV head
    served = [
        len(range(max(shard.heads.start, kv * queries), min(shard.heads.stop, (kv + 1) * queries)))
        for kv in shard.kv_heads
    ]
    if shard.kv_heads != kv_heads_of(shard.heads, facts) or len(set(served)) > 1:
        raise PlanError(
            f"rank {shard.rank} has query heads {shard.heads} and KV heads {shard.kv_heads}; each KV head serves"
            f" {queries} query heads of the model, so a rank takes whole KV heads with all of them, or an equal number"
            " of each"
        )


def _cover(what: str, parts: list[Range], whole: int) -> None:
    position = 0
    for part in sorted((part for part in parts if len(part)), key=lambda part: part.start):
        if part.start != position:
            raise PlanError(
                f"{what}: {'a hole' if part.start > position else 'an overlap'} at {position}, the next range is {part}"
            )
        position = part.stop
    if position != whole:
        raise PlanError(f"{what}: ranges end at {position}, the model has {whole}")


def _shard_from(entry: object, where: str, last: int) -> Shard:
    """Of a stage up to `last`: as many lists are made as there are stages."""
    rank, stage, *parts = _fields(entry, where, [field.name for field in fields(Shard)])
    return Shard(_whole(rank, where), _whole(stage, where, last), *(_range(part, where) for part in parts))


def _range(entry: object, where: str) -> Range:
    start, stop = (_whole(end, where) for end in _fields(entry, where, ["start", "stop"]))
    if start > stop:
        raise PlanError(f"{where} has a range from {start} to {stop}; {AGAIN}")
    return Range(start, stop)


def _fields(entry: object, where: str, names: list[str]) -> list[object]:
    """The values of an object that has these names and no others."""
    if not isinstance(entry, dict) or set(entry) != set(names):
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise PlanError(f"{where} has the fields {found!s:.200}; it must have {sorted(names)}")
    return [entry[name] for name in names]


def _whole(value: object, where: str, most: int = MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise PlanError(f"{where} has {value!a:.40} where a whole number from 0 to {most} must be; {AGAIN}")
    return value
