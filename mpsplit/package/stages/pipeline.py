"""stages.json: every stage of a pipeline, what it takes, gives and closes over, and who runs it.

In: JSON, or a Pipeline. Out: the other.

Values have the names of the captured graph; the model's own inputs and outputs have the names that
its `forward` gives them. Invariant: stages stand in the order in which they run, a stage takes only
what the model is given or an earlier stage gives, and ranks never go back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mpsplit.errors import PackageError
from mpsplit.package.json_fields import many, mapping, one_of, record, text, whole
from mpsplit.package.manifest_fields import BYTES, RANKS, TEXT
from mpsplit.package.stages.built import BUILT, Built
from mpsplit.package.stages.growing_shapes import LARGEST, Shape, grows, numbers, size_kind, text_of
from mpsplit.package.stages.image_settings import ImageSettings
from mpsplit.package.stages.sentence_settings import SentenceSettings
from mpsplit.package.stages.sharded_part import SHARDED_PART, ShardedPart
from mpsplit.package.whole_files import read_json, write_json
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS

STAGES = "stages.json"
FLOAT, WHOLE = "float32", "int64"
TYPES = {FLOAT: 4, WHOLE: 8}  # bytes of a number that travels
CAUSAL, POSITIONS, TABLE = "causal", "positions", "table"
MOST_STAGES, MOST_VALUES = 4096, 1 << 16
NAME = text(r"[A-Za-z_][\w.-]{0,199}", "a name")


@dataclass(frozen=True)
class Value:
    """An array: the model is given it, or a stage gives it."""

    type: str
    shape: Shape

    def __str__(self) -> str:
        return f"{text_of(self.shape)} {self.type}"

    def bytes(self, length: int) -> int:
        size = TYPES[self.type]
        for number in numbers(self.shape, length):
            size *= number
        return size


@dataclass(frozen=True)
class MadeValue:
    """What a stage makes for itself from the length: a `causal` mask, `positions` from `offset`
    on along `axis`, or the beginning of a `table` that it has."""

    name: str
    kind: str
    type: str
    shape: Shape
    offset: int = 0
    axis: int = 0


@dataclass(frozen=True)
class Stage:
    """`name`: the module that has most of its work. `weights`: how many numbers, in `bytes` as
    float32; `shared`: names of those that another stage has too, `copied`: values that are
    computed here again, `constants`: bytes of them. `whole`: inputs that keep the axis of the
    batch in the stage's own graph. `flops`: at a usual length. `parts`: what several ranks
    compute; where there are some, the stage's own graph takes and gives `graph_inputs` and
    `graph_outputs`. `built`: what made its files."""

    name: str
    rank: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made: tuple[MadeValue, ...] = ()
    weights: int = 0
    bytes: int = 0
    flops: int = 0
    constants: int = 0
    shared: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    parts: tuple[ShardedPart, ...] = ()
    graph_inputs: tuple[str, ...] = ()
    graph_outputs: tuple[str, ...] = ()
    built: Built = Built()

    @property
    def own_graph(self) -> Stage:
        """The stage that its rank's graph is: what others compute is given to it, and what they
        need it gives."""
        if not self.parts:
            return self
        made = tuple(value for value in self.made if value.name in self.graph_inputs)
        inputs = tuple(name for name in self.graph_inputs if name not in {value.name for value in made})
        return replace(self, inputs=inputs, outputs=self.graph_outputs, made=made, parts=())

    @property
    def closes_over(self) -> str:
        """For people: what of others it has for itself, and what it makes."""
        said = [f"{name} (copied, another stage has it too)" for name in self.shared]
        said += [f"{value} (computed again)" for value in self.copied]
        said += [f"{value.name} {text_of(value.shape)} (made here)" for value in self.made]
        said += [f"constants of {self.constants:,} bytes"] if self.constants else []
        return "; ".join(said)


@dataclass(frozen=True)
class Shard:
    """`number` of a `part` of a `stage`."""

    stage: int
    part: int
    number: int


@dataclass(frozen=True)
class Pipeline:
    """`inputs`: names of values that the model is given; `outputs`: the model's own names, each
    with its value. `longest`: of the length that grows, 0 where none does. `labels`: of the
    classes, where the model has some."""

    values: dict[str, Value]
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    stages: tuple[Stage, ...]
    longest: int = 0
    labels: tuple[str, ...] = ()
    images: ImageSettings | None = field(default=None)
    sentences: SentenceSettings | None = field(default=None)

    @property
    def depth(self) -> int:
        """How many ranks have stages of their own."""
        return self.stages[-1].rank + 1

    @property
    def ranks(self) -> int:
        """Those that only have shards of others' stages among them."""
        helping = [rank for stage in self.stages for part in stage.parts for rank in part.ranks]
        return max([self.depth - 1, *helping]) + 1

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: value.shape for name, value in self.values.items()}

    @property
    def sharded(self) -> bool:
        return any(stage.parts for stage in self.stages)

    def shards_of(self, rank: int) -> list[Shard]:
        """In order; those of its own stages too."""
        return [
            Shard(number, place, part.ranks.index(rank))
            for number, stage in enumerate(self.stages)
            for place, part in enumerate(stage.parts)
            if rank in part.ranks
        ]

    def of_shard(self, shard: Shard) -> Pipeline:
        """A pipeline of one stage, which is this shard's graph."""
        stage, part, number = self.stages[shard.stage], self.stages[shard.stage].parts[shard.part], shard.number
        taken = part.taken(number, self.values[part.takes].shape)
        computed = part.computed(number, self.values[part.gives].shape)
        values = {part.takes: Value(FLOAT, taken), part.gives: Value(FLOAT, computed)}
        name = f"{stage.name}, shard {number} of {part.modules[0]}"
        whole = (part.takes,) if part.whole[number] else ()
        alone = Stage(name, 0, (part.takes,), (part.gives,), whole=whole)
        return Pipeline(values, (part.takes,), {part.gives: part.gives}, (alone,), self.longest)

    @property
    def grows(self) -> bool:
        return any(grows(self.values[name].shape) for name in self.inputs)

    def of_rank(self, rank: int) -> list[int]:
        return [number for number, stage in enumerate(self.stages) if stage.rank == rank]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, folder: Path) -> None:
        write_json(folder / STAGES, self.to_json())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Pipeline:
        PIPELINE(data, "it")
        images, sentences = data.get("images"), data.get("sentences")
        pipeline = cls(
            values={name: Value(value["type"], tuple(value["shape"])) for name, value in data["values"].items()},
            inputs=tuple(data["inputs"]),
            outputs=data["outputs"],
            stages=tuple(map(_stage, data["stages"])),
            longest=data["longest"],
            labels=tuple(data["labels"]),
            images=ImageSettings.from_json(images) if images else None,
            sentences=SentenceSettings.from_json(sentences) if sentences else None,
        )
        return pipeline.check()

    @classmethod
    def load(cls, package: Path) -> Pipeline:
        remedy = "run `mpsplit partition` again"
        data = read_json(package / STAGES, remedy)
        try:
            return cls.from_json(data)
        except PackageError as wrong:
            raise PackageError(f"{package / STAGES} is damaged ({wrong}); {remedy}") from None

    def check(self) -> Pipeline:
        """Itself, when every value has one giver before its takers."""
        if not self.stages or self.stages[0].rank:
            raise PackageError("its first stage must be of rank 0")
        given, rank = set(self.inputs), 0
        for stage in self.stages:
            if missing := [name for name in stage.inputs if name not in given]:
                raise PackageError(f"stage {stage.name} takes {missing[0]}, which no stage before it gives")
            if not rank <= stage.rank <= rank + 1:
                raise PackageError(f"stage {stage.name} is of rank {stage.rank}, after one of rank {rank}")
            if twice := given.intersection(stage.outputs):
                raise PackageError(f"{sorted(twice)[0]} is given twice")
            self._check_parts(stage)
            given, rank = given.union(stage.outputs), stage.rank
        if unknown := given.union(self.outputs.values()) - set(self.values):
            raise PackageError(f"{sorted(unknown)[0]} has no shape")
        if lost := set(self.outputs.values()) - given:
            raise PackageError(f"no stage gives {sorted(lost)[0]}")
        if idle := [rank for rank in range(self.depth, self.ranks) if not self.shards_of(rank)]:
            raise PackageError(f"rank {idle[0]} has neither a stage nor a shard")
        return self

    def _check_parts(self, stage: Stage) -> None:
        """Each part takes what is there, and its graph is given what it gives."""
        there = {*stage.inputs, *stage.graph_outputs}
        for part in stage.parts:
            part.check(stage.name)
            if part.takes not in there or part.gives in there:
                raise PackageError(f"stage {stage.name}: {part.modules[0]} takes {part.takes}, which is not there")
            for name, cut in ((part.takes, part.cut == COLUMNS), (part.gives, part.cut == ROWS)):
                value = self.values.get(name)
                if value is None or value.type != FLOAT or part.axis >= len(value.shape):
                    raise PackageError(f"stage {stage.name}: {name} is no value that can be cut along {part.axis}")
                if cut and value.shape[part.axis] != part.size:
                    raise PackageError(f"stage {stage.name}: {name} is {value}, its shards have {part.size:,} of it")
            there.add(part.gives)
        if stage.parts:
            known = {*stage.inputs, *(value.name for value in stage.made), *(part.gives for part in stage.parts)}
            if missing := [name for name in stage.graph_inputs if name not in known]:
                raise PackageError(f"stage {stage.name}: its graph takes {missing[0]}, which nothing gives")
            if missing := [name for name in stage.outputs if name not in there]:
                raise PackageError(f"stage {stage.name}: neither its graph nor a shard gives {missing[0]}")


NAMES = many(NAME, MOST_VALUES)
SHAPE = many(size_kind, 8)
PIPELINE = record(
    {
        "values": mapping(record({"type": one_of(TYPES), "shape": SHAPE}), MOST_VALUES),
        "inputs": NAMES,
        "outputs": mapping(NAME, 4096),
        "stages": many(
            record(
                {"name": NAME, "rank": whole(0, RANKS), "inputs": NAMES, "outputs": NAMES}
                | {name: whole(0, BYTES) for name in ("weights", "bytes", "flops", "constants")}
                | {"shared": NAMES, "copied": NAMES, "whole": NAMES}
                | {
                    "made": many(
                        record(
                            {"name": NAME, "kind": one_of((CAUSAL, POSITIONS, TABLE)), "type": one_of(TYPES)}
                            | {"shape": SHAPE, "offset": whole(-LARGEST, LARGEST), "axis": whole(0, 8)}
                        ),
                        4096,
                    )
                },
                {"parts": many(SHARDED_PART, 4096), "graph_inputs": NAMES, "graph_outputs": NAMES, "built": BUILT},
            ),
            MOST_STAGES,
        ),
        "longest": whole(0, LARGEST),
        "labels": many(TEXT, 1 << 20),
    }
)


def _stage(data: dict[str, Any]) -> Stage:
    lists: dict[str, Any] = {name: tuple(data[name]) for name in ("inputs", "outputs", "shared", "copied", "whole")}
    made = tuple(MadeValue(**{**value, "shape": tuple(value["shape"])}) for value in data["made"])
    plain: dict[str, Any] = {name: data[name] for name in ("name", "rank", "weights", "bytes", "flops", "constants")}
    lists |= {name: tuple(data.get(name, ())) for name in ("graph_inputs", "graph_outputs")}
    parts = tuple(map(ShardedPart.from_json, data.get("parts", ())))
    built = Built.from_json(data["built"]) if "built" in data else Built()
    return Stage(**plain, **lists, made=made, parts=parts, built=built)
