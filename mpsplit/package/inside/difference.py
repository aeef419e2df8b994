"""What differs between two packages.

In: their folders. Out: lines for people; none when they do the same with the same weights.

Names of layers, blobs and models, the order of files and the tools that made them do not matter.
Weights are compared by the content of each layer. Invariant: what the manifests say of files is
checked before it is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from mpsplit.errors import PackageError
from mpsplit.package.inside.anatomy import EMBEDDING_PART, anatomy_of
from mpsplit.package.inside.canonical_graph import Line, canonical
from mpsplit.package.inside.rank_contents import stored
from mpsplit.package.manifest import FUSED, GRAPH, RANK_TEXT, Manifest, rank_folder
from mpsplit.package.param_text import REMEDY, Layer, Param
from mpsplit.package.sealed.opened import demand_sealed
from mpsplit.package.stored.float_weights import FLOAT_BYTES, read_weights
from mpsplit.package.stored.quantisation import LAYER as QLINEAR
from mpsplit.package.stored.quantisation import QLinear
from mpsplit.package.stored.weight_files import Packed, WeightFiles

FLOATS, PACKED = "floats", "packed"
LISTED = 6  # lines a rank about weights that differ, before the others are only counted


@dataclass(frozen=True)
class Side:
    """One of the two packages."""

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path) -> Side:
        manifest = Manifest.load(folder)
        manifest.demand_ncnn(folder)
        demand_sealed(folder, manifest)
        for rank in range(manifest.plan.ranks):
            manifest.check_files(folder, rank)
        return cls(folder, manifest)

    def hashes(self, rank: int) -> dict[str, str]:
        """Of a rank's files, by what they are to it."""
        files = WeightFiles.load(rank_folder(self.folder, rank))
        roles = {files.floats: FLOATS, files.embedding: EMBEDDING_PART}
        roles |= {name: f"{PACKED} {number}" for number, (_, name) in enumerate(files.packed)}
        digests = {file.path.partition("/")[2]: file.sha256 for file in self.manifest.ranks[rank].files}
        return {roles.get(name, name): digest for name, digest in digests.items() if name != RANK_TEXT}

    def graph(self, rank: int, name: str) -> tuple[Line, ...]:
        path = rank_folder(self.folder, rank) / name
        return canonical(anatomy_of(path, self.manifest.plan.shards[rank].layers.start))

    def weights(self, rank: int) -> Iterator[tuple[Line, str]]:
        """The layers of a rank that have weights, along the data flow, and the hash of what they
        hold."""
        folder = rank_folder(self.folder, rank)
        files = WeightFiles.load(folder)
        floats, packed = read_weights(Param.load(folder / GRAPH), folder / files.floats), Packed.load(folder, files)
        for line in self.graph(rank, GRAPH):
            if stored(line.layer)[0]:
                held = _packed(line.layer, packed) if line.layer.type == QLINEAR else floats[line.layer.name]
                digest = hashlib.sha256()
                for array in held:
                    digest.update(np.ascontiguousarray(array).reshape(-1).data)
                yield line, digest.hexdigest()


def differences(a: Path, b: Path) -> list[str]:
    left, right = Side.load(a), Side.load(b)
    lines = [*_of_manifests(left.manifest, right.manifest)]
    if left.manifest.plan.ranks != right.manifest.plan.ranks:
        return [*lines, "graphs and weights are not compared: the numbers of ranks differ"]
    for rank in range(left.manifest.plan.ranks):
        lines += _of_ranks(left, right, rank)
    return lines


def _of_manifests(a: Manifest, b: Manifest) -> Iterator[str]:
    for name, mine in a.facts.to_json().items():
        if (theirs := b.facts.to_json()[name]) != mine:
            yield f"facts: {name} is {mine} and {theirs}"
    if a.plan.ranks != b.plan.ranks:
        yield f"plan: {a.plan.ranks} and {b.plan.ranks} ranks"
    else:
        for x, y in zip(a.plan.shards, b.plan.shards, strict=True):
            for name in asdict(x):
                if getattr(x, name) != getattr(y, name):
                    yield f"plan: rank {x.rank} has {name} {getattr(x, name)} and {getattr(y, name)}"
    yield from _of_ropes(a, b)
    for name in ("dtype", "eos"):
        if getattr(a, name) != getattr(b, name):
            yield f"{name} is {getattr(a, name)} and {getattr(b, name)}"
    mine, theirs = ({file.path: file.sha256 for file in side.tokenizer} for side in (a, b))
    for path in sorted(mine.keys() | theirs.keys()):
        if mine.get(path) != theirs.get(path):
            yield f"tokenizer: {path} " + ("differs" if path in mine and path in theirs else "is in one alone")


def _of_ropes(a: Manifest, b: Manifest) -> Iterator[str]:
    if a.rope.scaling != b.rope.scaling:
        yield f"rope: scaling is {a.rope.scaling:g} and {b.rope.scaling:g}"
    pairs = list(zip(a.rope.inverse_frequencies, b.rope.inverse_frequencies, strict=False))
    if apart := sum(x != y for x, y in pairs):
        ratio = max((max(x, y) / min(x, y) for x, y in pairs if min(x, y) > 0), default=1.0)
        yield f"rope: {apart} of {len(pairs)} frequencies differ, by a factor of {ratio:.6g} at most"


def _of_ranks(a: Side, b: Side, rank: int) -> Iterator[str]:
    mine, theirs = a.hashes(rank), b.hashes(rank)
    changed = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    if EMBEDDING_PART in changed:
        yield f"rank {rank}: the rows of the embedding differ"
    for name in (GRAPH, FUSED):  # one is made of the other: the first that differs says it
        if name in changed and (apart := _of_graphs(a.graph(rank, name), b.graph(rank, name))):
            yield f"rank {rank}, {name}: {apart}"
            break
    if changed - {EMBEDDING_PART, FUSED}:
        yield from _of_weights(rank, list(a.weights(rank)), list(b.weights(rank)))


def _of_graphs(a: tuple[Line, ...], b: tuple[Line, ...]) -> str:
    """Empty when they are the same."""
    apart = [(x, y) for x, y in zip(a, b, strict=False) if x.text != y.text]
    counts = f"{len(a)} and {len(b)} layers" if len(a) != len(b) else ""
    if not apart:
        return counts
    x, y = apart[0]
    return f"{counts or f'{len(apart)} of {len(a)} layers differ'}, first in {x.part}: {x.text} | {y.text}"


def _of_weights(rank: int, a: list[tuple[Line, str]], b: list[tuple[Line, str]]) -> Iterator[str]:
    if [line.part for line, _ in a] != [line.part for line, _ in b]:
        yield f"rank {rank}: {len(a)} and {len(b)} layers have weights; they are not compared"
        return
    by_part: dict[str, list[bool]] = {}
    for (line, mine), (_, theirs) in zip(a, b, strict=True):
        by_part.setdefault(line.part, []).append(mine != theirs)
    texts = [(part, _which(differ)) for part, differ in by_part.items() if any(differ)]
    alike = [[part for part, _ in group] for _, group in groupby(texts, key=lambda pair: pair[1])]
    for parts in alike[:LISTED]:
        where = parts[0] if len(parts) == 1 else f"{parts[0]} .. {parts[-1]}"
        yield f"rank {rank}, {where}: {dict(texts)[parts[0]]}"
    if len(alike) > LISTED:
        yield f"rank {rank}: and weights of {sum(map(len, alike[LISTED:]))} other parts"


def _which(differ: list[bool]) -> str:
    """Of the weights of a part, in the order of the data flow."""
    if all(differ):
        return "all weights differ"
    return f"weights {', '.join(str(i) for i, other in enumerate(differ, start=1) if other)} of {len(differ)} differ"


def _packed(layer: Layer, packed: Packed) -> list[np.ndarray]:
    q = QLinear.of(layer)
    pieces = [(q.offset, q.bytes)] + ([(q.bias, FLOAT_BYTES * q.n)] if q.bias >= 0 else [])
    held = [packed.at(*piece) for piece in pieces]
    arrays = [array for array in held if array is not None]
    if len(arrays) < len(held):
        raise PackageError(f"{layer.name!a} is {q}, which lies in none of the packed files; {REMEDY}")
    return arrays
