"""Weight files that another plan leaves as they are.

In: a package, what is read of it. Out: an Index of each of its ranks, as though its files had been
made out of the package itself.

Invariant: what a file holds follows from its arrays and their source. So where a new rank's file
has the outline of an old one, the Store takes that one, and nothing is read or written: as of a
layer that only moved to another stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpsplit.export.weights.conversion_weights import Weights
from mpsplit.export.weights.weight_contents import contents
from mpsplit.export.weights.weight_store import Entry, Index, key_of
from mpsplit.package.manifest import GRAPH, Manifest, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles


def unchanged(package: Path, old: Manifest, ranks: list[int], weights: Weights) -> dict[Path, Index]:
    """By the folders of the old ranks."""
    return {rank_folder(package, rank): Index((), dict(_entries(package, old, rank, weights))) for rank in ranks}


def _entries(package: Path, old: Manifest, rank: int, weights: Weights) -> Iterator[tuple[str, Entry]]:
    folder = rank_folder(package, rank)
    files, listed = WeightFiles.load(folder), {file.path: file for file in old.ranks[rank].files}
    packed = dict(files.packed)
    param, shard = Param.load(folder / GRAPH), old.plan.shards[rank]
    for file in contents(param, shard, old.facts, weights.source, Recipe(), old.dtype, weights.encoder_of):
        name = {"floats": files.floats, "embedding": files.embedding}.get(file.role) or packed[file.offset]
        file_of_name = listed[f"{folder.name}/{name}"]
        entry = Entry(file.outline, Path(name).stem, name, file_of_name.size, file_of_name.sha256)
        yield key_of(file, weights.source, weights.origin), entry
