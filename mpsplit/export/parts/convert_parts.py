"""`mpsplit convert --compiler iree` of a decoder: every rank compiles the parts of its graph.

In: a partition. Out: a package without a file of ncnn.

The slice is filled with its weights in float32, traced at one length, and cut (rank_parts.py).
Equal parts are compiled once. Invariant: what was there before stays whole until every rank has
everything (package_commit.py).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from mpsplit.comm import Communicator
from mpsplit.errors import ConvertError
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.model_origin import Origin, open_model
from mpsplit.export.package_texts import commit
from mpsplit.export.parts.rank_parts import Cut, Shape, parts_of
from mpsplit.export.stages.compilers.iree_compiler import IreeCompiler, write_archive, write_graph
from mpsplit.export.trace.capture import calls, capture, check_calls, expected_calls
from mpsplit.export.trace.slicing import Fill, build_whole, from_checkpoint, slice_model
from mpsplit.export.trace.trace_inputs import examples
from mpsplit.package.json_fields import record, whole
from mpsplit.package.manifest import COMPILER, PARTITION, RANK_FILES, File, Manifest, rank_folder
from mpsplit.package.manifest_fields import BYTES, FILES
from mpsplit.package.stages.built import IREE
from mpsplit.package.stored.parts_json import CODE, GRAPH, HIDDEN, PARTS, TOKENS, WEIGHTS, RankParts, Step, forget_parts
from mpsplit.package.together.exchanged import by_rank, plain
from mpsplit.package.together.package_commit import (
    NEXT,
    forget_other_ranks,
    forget_unfinished_partition,
    partition_home,
)
from mpsplit.package.together.package_lock import held_together
from mpsplit.plan.cuts import Part
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Range
from mpsplit.progress import track

RESULT = record({"files": FILES, "read": whole(0, BYTES)})


@dataclass(frozen=True)
class PartsConversion:
    """`read`: bytes of the checkpoint, by rank."""

    manifest: Manifest
    read: tuple[int, ...]


class Rows(nn.Module):
    """tokens [length] -> hidden [1, length, hidden]; zeros for tokens whose rows others have."""

    def __init__(self, table: torch.Tensor, first: int):
        super().__init__()
        self.table, self.first = nn.Parameter(table, requires_grad=False), first

    def forward(self, tokens):
        local, last = tokens - self.first, len(self.table) - 1
        mine = torch.logical_and(local >= 0, local <= last).to(torch.float32)
        return ((F.embedding(local.clamp(0, last), self.table) * mine[:, None])[None],)


def convert_parts(package: Path, comm: Communicator, compiler: IreeCompiler, model: Path | None) -> PartsConversion:
    """Converts the slice of this rank, or of all ranks when there is only this process. `model`:
    where the checkpoint is by now."""
    with held_together(package, "converted", comm):
        if comm.host_lead:
            forget_unfinished_partition(package)
        comm.exchange(None)
        home = partition_home(package)
        partition, origin = Manifest.load(home, PARTITION), Origin.load(home)
        if not (origin or model):
            raise ConvertError(
                f"{package} was partitioned with --structure-only; say where its weights are: --model DIR"
            )
        checkpoint, origin = open_model(origin, model)
        told = {}
        for rank in range(partition.plan.ranks) if comm.size == 1 else [comm.rank]:
            before, folder = checkpoint.bytes_read, rank_folder(package / NEXT, rank)
            folder.mkdir(parents=True, exist_ok=True)
            cuts = rank_cuts(partition, rank, origin.folder, checkpoint)
            parts = _compiled(cuts, rank, folder, compiler)
            files = [vars(File.of(package / NEXT, folder / name)) for name in (PARTS, *parts.names())]
            told[rank] = {"files": files, "read": checkpoint.bytes_read - before}
        checkpoint.close()
        results = by_rank(comm, told, plain(RESULT))
        listed = [File.many_from_json(result["files"]) for result in results]
        made_with = compiler.tools | {"recipe": compiler.recipe, COMPILER: IREE}
        manifest = partition.with_files(listed, made_with)
        commit(package, comm, manifest, {}, None)
        if comm.host_lead:
            forget_other_ranks(package, partition.plan.ranks)
        for rank in told:
            _forget_others(rank_folder(package, rank), {Path(file.path).name for file in listed[rank]})
        return PartsConversion(manifest, tuple(result["read"] for result in results))


def rank_cuts(partition: Manifest, rank: int, folder: Path, checkpoint: Checkpoint) -> list[Cut]:
    """The rank's graph with its weights, and before it the rows of the embedding that it has.
    `folder`: with the model's config."""
    plan, facts = partition.plan, partition.facts
    read, example = from_checkpoint(checkpoint, facts), examples(facts)[0]
    graph = capture(slice_model(build_whole(folder), plan, rank, facts, read), example, symbolic=False)
    check_calls(calls(graph), expected_calls(plan, rank), rank)
    return [*_embedding(plan.shards[rank].embed, read, facts), *parts_of(graph, example)]


def _embedding(rows: Range, read: Fill, facts: ModelFacts) -> Iterator[Cut]:
    if len(rows):
        table = read(facts.family.embedding, Part(0, rows), (len(rows), facts.hidden))
        yield Cut((TOKENS,), (HIDDEN,), None, Rows(table, rows.start), (("length",),))


def _compiled(cuts: Sequence[Cut], rank: int, folder: Path, compiler: IreeCompiler) -> RankParts:
    """Its files are in the folder."""
    steps: list[Step] = []
    first_of: dict[str, str] = {}  # MLIR -> the part that has it
    for cut in track(cuts, f"parts of rank {rank}"):
        if cut.module is None:
            steps.append(Step(cut.takes, cut.gives, call=cut.call))
            continue
        stem = f"part-{sum(bool(step.program) for step in steps):02d}"
        what = f"rank {rank}, {' '.join(cut.takes)} to {' '.join(cut.gives)}"
        made = compiler.lowered(what, functools.partial(_exported, cut))
        if made.text not in first_of:
            first_of[made.text] = stem
            write_graph(folder / (stem + GRAPH), made.text, made.origins)
            (folder / (stem + CODE)).write_bytes(compiler.program(made.text, what))
        write_archive(folder / (stem + WEIGHTS), made.arrays)
        steps.append(Step(cut.takes, cut.gives, first_of[made.text], stem, cut.attentions))
    parts = RankParts(compiler.built, tuple(steps))
    parts.save(folder)
    return parts


SIZES = {"length": 5, "past": 11, "total": 16}  # to export with: all that is known of them is their sum


def _exported(cut: Cut) -> torch.export.ExportedProgram:
    assert cut.module
    kind = torch.int64 if cut.takes == (TOKENS,) else torch.float32
    sizes = ([SIZES[size] if isinstance(size, str) else size for size in shape] for shape in cut.shapes)
    given = tuple(torch.zeros(size, dtype=kind) for size in sizes)
    with torch.no_grad():
        return torch.export.export(cut.module, given, dynamic_shapes=tuple(map(_free, cut.shapes)), strict=False)


def _free(shape: Shape) -> dict[int, object]:
    return {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(shape) if isinstance(size, str)}


def _forget_others(folder: Path, listed: set[str]) -> None:
    """Of an earlier conversion, by another compiler or of more parts."""
    forget_parts(folder, listed)
    for name in RANK_FILES:
        (folder / name).unlink(missing_ok=True)
