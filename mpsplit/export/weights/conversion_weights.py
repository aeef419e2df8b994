"""What one conversion reads, and what it knows of it.

In: a source, its origin. Out: Weights, which convert and repartition hand on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpsplit.export.model.model_origin import Origin
from mpsplit.export.weights.encode import EncoderOf
from mpsplit.export.weights.weight_source import Source
from mpsplit.export.weights.weight_store import Index


@dataclass(frozen=True)
class Weights:
    """`embedding`: the type that its rows will have, as the manifest spells it. `encoder_of`: None
    where the recipe tells all. Of a package also its `identity`, the `recipe` that it was made
    with, in words, and which of its files may be `unchanged`, by the ranks' folders."""

    source: Source
    origin: Origin
    embedding: str
    encoder_of: EncoderOf | None = None
    identity: str | None = None
    recipe: str | None = None
    unchanged: Mapping[Path, Index] = field(default_factory=dict)
