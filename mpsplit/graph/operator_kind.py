"""What an operator is: how it is written, and which layer of ncnn it stands for.

In: the types of what an operator reads, its attributes. Out: a Layer without names, for the shape
rules of package/checked/layer_shapes.py; and from a Layer its attributes.

Invariant: the layer of an operator has the parameters that mpsplit writes, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mpsplit.graph.value_types import ValueType
from mpsplit.package.checked.layer_shapes import ROWS, RankSizes
from mpsplit.package.param_text import Layer
from mpsplit.plan.shards import Range

Said = dict[str, int | float]  # attributes by name
Types = Sequence[ValueType]
Axes = tuple[str | None, ...]  # of a value: what layer_shapes calls a size, or None
NO_RANK = RankSizes(0, 0, 0, 0, 0, Range(0, 0), 0, {}, False)


@dataclass(frozen=True)
class Attribute:
    """`id`: of the layer's parameter, "" where it is a part of another one; `optional`: where it is
    not written, ncnn knows what it is."""

    id: str
    kind: type[int] | type[float] = int
    optional: bool = False


@dataclass(frozen=True)
class Operator:
    """`values`: what it reads, by name, and for each the shapes in which a size has a name there;
    weights come after them, `weights` says which. `layers`: of ncnn, none where the engine does it
    between layers. `fixed`: parameters that tell it from others of that layer. `made`: names of
    what it makes, where that is more than one value. `bytes`: whose the bytes of what it makes are:
    "" for its own, or those of the first value that it reads."""

    meaning: str
    values: dict[str, tuple[Axes, ...]]
    layers: tuple[str, ...] = ()
    weights: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    fixed: dict[str, str] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    bytes: str = ""
    # parameters that follow from types
    parameters: Callable[[Types, Said], dict[str, str]] = lambda types, said: {}
    rank: Callable[[Types, Said], RankSizes] = lambda types, said: NO_RANK
    # the layer, where more than parameters follows from types
    special: Callable[[Operator, Types, Said], Layer] | None = None
    # attributes that stand in a parameter of the layer, None where it is another operator's
    lift: Callable[[Layer], Said | None] = lambda layer: {}

    def layer_of(self, types: Types, said: Said) -> Layer:
        if self.special:
            return self.special(self, types, said)
        given = {a.id: str(said[name]) for name, a in self.attributes.items() if a.id and name in said}
        return unnamed(
            self.layers[0], len(self.values), len(self.made) or 1, self.fixed | given | self.parameters(types, said)
        )

    def said_of(self, layer: Layer) -> Said | None:
        """The attributes of a layer; None where it is another operator's."""
        if layer.type not in self.layers or any(_written(layer, i) != value for i, value in self.fixed.items()):
            return None
        lifted = self.lift(layer)
        if lifted is None:
            return None
        found = {name: a.kind(layer.params[a.id]) for name, a in self.attributes.items()
                 if a.id and a.id in layer.params}  # fmt: skip
        return found | lifted


IN_PLACE, SAME = "those that it reads, if nobody reads them later", "those that it reads"

DEFAULTS = {("RMSNorm", "2"): "1"}  # of parameters that are not 0 where they are not written


def _written(layer: Layer, id: str) -> str:
    return layer.params.get(id, DEFAULTS.get((layer.type, id), "0"))


def unnamed(kind: str, reads: int, makes: int, params: dict[str, str]) -> Layer:
    return Layer(kind, "", tuple(f"in{i}" for i in range(reads)), tuple(f"out{i}" for i in range(makes)), params)


ANY: tuple[Axes, ...] = ()  # no size has a name
OF_ROWS: tuple[Axes, ...] = ((ROWS, None),)
