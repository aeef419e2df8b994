"""`mpsplit inspect`: what a package holds, rank by rank and part by part.

In: a package. Out: a plain dict, or text for people.

Invariant: everything shown is in the dict. Weights are not read; graphs and manifest say where they
are.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsplit.errors import RunError
from mpsplit.package.inside.anatomy import EMBEDDING_PART, HEAD_PART, anatomy_of
from mpsplit.package.inside.difference import differences
from mpsplit.package.inside.rank_contents import Contents, PartSizes, contents
from mpsplit.package.manifest import FUSED, Manifest, rank_folder
from mpsplit.package.picture.chart import Chart, chart
from mpsplit.package.picture.chart_dot import dot
from mpsplit.package.picture.chart_svg import svg
from mpsplit.package.stages.built import NCNN
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.whole_files import told_if_not_written
from mpsplit.plan.cuts import one_matrix
from mpsplit.plan.placed_plan import PLAN, Placed

if TYPE_CHECKING:
    from rich.table import Table

SHORT = 12  # digits of a hash
FORMS = {"dot": dot, "svg": svg}
CUTS = ("heads", "kv_heads", "mlp", "embed", "head")


@dataclass(frozen=True)
class Inspected:
    """A package and what its ranks hold; `placed` when its plan was made for machines."""

    manifest: Manifest
    ranks: tuple[Contents, ...]
    placed: Placed | None
    context: int


def inspect(package: Path, manifest: Manifest, context: int | None = None) -> Inspected:
    tokens = context_of(manifest, context)
    held = tuple(contents(package, manifest, rank, tokens) for rank in range(manifest.plan.ranks))
    placed = Placed.load(package / PLAN) if (package / PLAN).is_file() else None
    return Inspected(manifest, held, placed, tokens)


def context_of(manifest: Manifest, context: int | None) -> int:
    """As it is asked for, or the model's."""
    most = manifest.facts.context
    if context is not None and not 1 <= context <= most:
        raise RunError(f"--context {context} is out of range; the model has room for 1 to {most} tokens")
    return context or most


def describe(inspected: Inspected) -> dict[str, Any]:
    manifest, placed = inspected.manifest, inspected.placed
    return {
        "model": manifest.model,
        "architecture": manifest.facts.architecture,
        "facts": manifest.facts.to_json(),
        "stages": [list(group) for group in manifest.plan.stages],
        "unused": list(manifest.unused),
        "tools": manifest.tools,
        "repartitioned_from": manifest.repartitioned_from,
        "verified": manifest.verified.to_json() if manifest.verified else None,
        "context": inspected.context,
        "made_for": placed and {"devices": [d.name for d in placed.cluster.devices], "job": asdict(placed.job)},
        "twice": twice(inspected),
        "ranks": [_rank(inspected, held) for held in inspected.ranks],
        "total": _sizes(_sum(inspected)),
    }


def _rank(inspected: Inspected, held: Contents) -> dict[str, Any]:
    shard, part = inspected.manifest.plan.shards[held.rank], inspected.manifest.ranks[held.rank]
    return {
        "rank": shard.rank,
        "stage": shard.stage,
        "layers": str(shard.layers),
        "cuts": {name: str(getattr(shard, name)) for name in CUTS},
        "weight_bytes": part.weight_bytes,
        "collectives": dict(Counter(call.operator for call in part.schedule)),
        "files": {file.path: file.size for file in part.files},
        "hashes": {file.path: file.sha256 for file in part.files},
        "parts": [_sizes(part) for part in held.parts],
        "total": _sizes(held.total),
    }


def _sizes(part: PartSizes) -> dict[str, Any]:
    return asdict(part) | {
        "bits": round(part.bits, 3),
        "total_bytes": part.weight_bytes + part.cache_bytes + part.graph_bytes,
    }


def _sum(inspected: Inspected) -> PartSizes:
    return Contents(-1, tuple(held.total for held in inspected.ranks)).total


def twice(inspected: Inspected) -> list[str]:
    """What several ranks, or two files, hold of the same weights."""
    manifest = inspected.manifest
    lines: list[str] = []
    if manifest.facts.tied and manifest.dtype != HEAD_ROWS:
        embedded = sum(part.weight_bytes for held in inspected.ranks if (part := held.part(EMBEDDING_PART)))
        heads = sum(part.weight_bytes for held in inspected.ranks if (part := held.part(HEAD_PART)))
        lines.append(
            f"{tied(manifest)}: {embedded:,} bytes of {manifest.dtype} rows, "
            f"{heads:,} bytes of head and norm in the weights"
        )
    for group in manifest.plan.stages:
        owners = Counter(head for rank in group for head in manifest.plan.shards[rank].kv_heads)
        if owners and max(owners.values()) > 1:
            lines.append(
                f"ranks {', '.join(map(str, group))} hold {sum(owners.values())} KV heads of {len(owners)}: up to"
                f" {max(owners.values())} copies"
            )
        if len(group) > 1 and len(manifest.plan.shards[group[0]].layers):
            lines.append(f"ranks {', '.join(map(str, group))} each hold the norms of their layers")
    return lines


def tied(manifest: Manifest) -> str:
    """Of a model with a tied head: how often the matrix is stored, and why."""
    if manifest.dtype == HEAD_ROWS:
        return "the head is tied to the embedding: one matrix is both"
    why = "as asked" if one_matrix(manifest.plan, manifest.facts) else "ranks have other rows of one than of the other"
    return f"the head is tied to the embedding and stored beside it ({why})"


def show(inspected: Inspected) -> None:
    from rich.console import Console

    manifest, facts = inspected.manifest, inspected.manifest.facts
    print(
        f"{manifest.model}: {facts.architecture}, {facts.layers} layers, hidden {facts.hidden}, "
        f"{facts.heads} heads on {facts.kv_heads} KV heads, MLP {facts.mlp}, "
        f"vocabulary {facts.vocabulary}{' (tied)' if facts.tied else ''}, context {facts.context}"
    )
    print(_origin(inspected))
    if manifest.repartitioned_from:
        print(f"repartitioned from the package whose manifest.json had sha256 {manifest.repartitioned_from[:SHORT]}")
    print(
        f"verified: {manifest.verified}" if manifest.verified else "not verified; mpsplit verify PACKAGE MODEL does it"
    )
    absent = "its files are not here" if manifest.compiler == NCNN else f"compiled by {manifest.compiler}, in float32"
    console = Console(width=None if Console().is_terminal else 140, highlight=False)
    for held, about in zip(inspected.ranks, describe(inspected)["ranks"], strict=True):
        collectives = ", ".join(f"{count} {name}" for name, count in about["collectives"].items()) or "none"
        print(f"\nrank {held.rank}, stage {about['stage']}, layers {about['layers']}")
        print("  cuts         " + ", ".join(f"{name} {part}" for name, part in about["cuts"].items()))
        print(f"  collectives  {collectives}")
        for path, size in about["files"].items():
            print(f"  {path:<24} {size:>16,} bytes  sha256 {about['hashes'][path][:SHORT]}")
        console.print(_table(held, inspected.context) if held.parts else f"  {absent}")
    if manifest.compiler != NCNN:
        return
    total = _sum(inspected)
    print(f"\nall ranks: {total.weight_bytes:,} bytes of {total.weights:,} weights, {total.bits:.2f} bits a weight; "
          f"cache {total.cache_bytes:,}")  # fmt: skip
    if manifest.dtype == HEAD_ROWS:
        print(tied(manifest))
    for line in twice(inspected):
        print(line)
    if manifest.unused:
        print(f"not used of the checkpoint: {', '.join(manifest.unused)}")


def _origin(inspected: Inspected) -> str:
    if inspected.placed is None:
        return f"plan: {inspected.manifest.plan.ranks} ranks, made without a cluster"
    job = inspected.placed.job
    names = ", ".join(device.name for device in inspected.placed.cluster.devices)
    tokens = f"context {job.context}, prompt {job.prompt}, {job.new} new tokens"
    return f"plan: {PLAN}, made for {names}; {job.stored}, {tokens}"


def _table(held: Contents, context: int) -> Table:
    """Decoder layers of the same sizes that follow each other are one line."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in ("  part", "stored as", "weights", "bytes", "bits", f"cache of {context}", "graph", "total"):
        table.add_column(title, justify="left" if title in ("  part", "stored as") else "right", no_wrap=True)
    for part in (*folded(held.parts), held.total):
        total = part.weight_bytes + part.cache_bytes + part.graph_bytes
        numbers = (part.weights, part.weight_bytes, f"{part.bits:.2f}" if part.weights else "", part.cache_bytes)
        shown = [n if isinstance(n, str) else f"{n:,}" for n in (*numbers, part.graph_bytes, total)]
        table.add_row(f"  {part.name}", "; ".join(part.kinds), *shown)
    return table


def folded(parts: tuple[PartSizes, ...]) -> list[PartSizes]:
    """Parts of equal sizes under one name: "layer 0 .. 31, each"; graphs may differ by the digits
    of their names."""
    lines = []
    for _, group in groupby(parts, _without_number):
        same = list(group)
        name = same[0].name if len(same) == 1 else f"{same[0].name} .. {same[-1].name.split()[1]}, each"
        lines.append(replace(same[0], name=name, graph_bytes=max(part.graph_bytes for part in same)))
    return lines


def _without_number(part: PartSizes) -> PartSizes:
    """The same for all decoder layers of equal sizes."""
    return replace(part, name="" if part.name.startswith("layer") else part.name, graph_bytes=0)


def show_difference(a: Path, b: Path, as_json: bool) -> int:
    """The exit code: 1 when they differ."""
    lines = differences(a, b)
    if as_json:
        print(json.dumps({"same": not lines, "differences": lines}, ensure_ascii=False))
    else:
        print("\n".join(lines) if lines else "the same: facts, plan, rope, graphs, weights and tokenizer")
    return int(bool(lines))


def check_rank(manifest: Manifest, rank: int) -> None:
    if not 0 <= rank < manifest.plan.ranks:
        raise RunError(f"--rank {rank} is out of range; the package has ranks 0 to {manifest.plan.ranks - 1}")


def draw(package: Path, manifest: Manifest, rank: int, unfold: bool, files: dict[str, str | None]) -> None:
    """The native engine's graph of a rank, written as "dot" or "svg" to the files that are
    named."""
    check_rank(manifest, rank)
    shard = manifest.plan.shards[rank]
    picture = chart(anatomy_of(rank_folder(package, rank) / FUSED, shard.layers.start), unfold)
    title = f"{manifest.model}: rank {rank} of {manifest.plan.ranks}, stage {shard.stage}, layers {shard.layers}"
    write_pictures(picture, title, files)


def write_pictures(picture: Chart, title: str, files: dict[str, str | None]) -> None:
    for form, file in files.items():
        if file:
            with told_if_not_written(f"--{form}", file):
                Path(file).write_text(FORMS[form](picture, title), encoding="utf-8")
