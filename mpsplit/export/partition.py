"""`mpsplit partition`: every rank cuts and traces its own slice. In: a model, a plan. Out: rank-R/ folders and partition.json.

Invariant: partition.json is written last; without it the folder is not a partition. A failed run leaves nothing behind.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from mpsplit.comm import Communicator
from mpsplit.errors import ModelError
from mpsplit.export import torchscript
from mpsplit.export.capture import as_text, calls, capture, check_calls, examples, expected_calls
from mpsplit.export.checkpoint import Checkpoint
from mpsplit.export.slicing import (
    EMBEDDING,
    IGNORABLE,
    build_whole,
    embedding_rows,
    expected_weights,
    rope_of,
    slice_model,
)
from mpsplit.export.source import read_config
from mpsplit.export.tokenizer import copy_tokenizer, eos_ids
from mpsplit.package.manifest import EMBED, MANIFEST, PARTITION, File, Manifest, RankPart, rank_folder
from mpsplit.plan.model import ModelFacts
from mpsplit.plan.placed import PLAN, Placed
from mpsplit.plan.shards import Plan

FORM = "torchscript form"  # which of torchscript.FORMS the .pt files are in


def tools(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


def partition(
    folder: Path, plan: Plan, out: Path, comm: Communicator, form: str = "module", placed: Placed | None = None
) -> Manifest:
    """Cuts and traces the shards of this rank, or of all ranks when there is only this process. The package keeps `placed`, which says
    on which machines the plan was meant to run."""
    config = read_config(folder)
    facts = ModelFacts.from_config(config)
    plan.check(facts)
    checkpoint = Checkpoint(folder)
    model = build_whole(folder)
    unused = checkpoint.check(expected_weights(model, facts), (*IGNORABLE, *(["lm_head.weight"] if facts.tied else [])))
    _check_out(out)
    mine = range(plan.ranks) if comm.size == 1 else [comm.rank]
    parts = {}
    with _all_or_nothing(out, mine):
        for rank in mine:
            before = checkpoint.bytes_read
            schedule = _partition_rank(build_whole(folder), plan, rank, facts, checkpoint, out, form)
            parts[rank] = RankPart(schedule, checkpoint.bytes_read - before)
        everybody = {rank: part for shared in comm.exchange(parts) for rank, part in shared.items()}
    _put_in_place(out, mine, plan, comm)
    manifest = Manifest(
        model=folder.resolve().name,
        facts=facts,
        plan=plan,
        rope=rope_of(model),
        dtype=checkpoint.entries[EMBEDDING].dtype,
        eos=eos_ids(folder, config),
        ranks=tuple(everybody[rank] for rank in range(plan.ranks)),
        tokenizer=tuple(File.of(out, path) for path in copy_tokenizer(folder, out)) if comm.host_lead else (),
        unused=unused,
        tools=tools("mpsplit", "torch", "transformers", "safetensors")
        | {"python": platform.python_version(), FORM: form},
    )
    manifest = comm.exchange(manifest)[0]
    if comm.host_lead:
        if placed:
            placed.save(out / PLAN)
        manifest.save(out, PARTITION)
    comm.exchange(None)
    return manifest


@contextmanager
def _all_or_nothing(out: Path, ranks: Iterable[int]):
    """Whatever ends the block early, an error here or of another rank, takes the half-written folders with it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for rank in ranks:
            shutil.rmtree(_partial(out, rank), ignore_errors=True)
        with suppress(OSError):  # it holds something else, or another rank was faster
            out.rmdir()
        raise


def _put_in_place(out: Path, ranks: Iterable[int], plan: Plan, comm: Communicator) -> None:
    """The new folders become the package's; what an earlier partition left goes, its manifests first."""
    if comm.host_lead:
        for stale in (MANIFEST, PARTITION, PLAN):
            (out / stale).unlink(missing_ok=True)
    comm.exchange(None)
    for rank in ranks:
        shutil.rmtree(rank_folder(out, rank), ignore_errors=True)
        os.replace(_partial(out, rank), rank_folder(out, rank))
    comm.exchange(None)
    if comm.host_lead:
        current = {rank_folder(out, rank).name for rank in range(plan.ranks)}
        for old in out.glob("rank-*"):
            if old.name not in current:
                shutil.rmtree(old, ignore_errors=True)


def _partition_rank(model, plan: Plan, rank: int, facts: ModelFacts, checkpoint: Checkpoint, out: Path, form: str):
    folder = _partial(out, rank)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)  # a rank that fails early may have taken `out` away
    stage = slice_model(model, plan, rank, facts, checkpoint)
    example = examples(facts)[0]
    graph_module = capture(stage, example)
    schedule = calls(graph_module)
    check_calls(schedule, expected_calls(plan, rank), rank)
    (folder / "graph.fx.txt").write_text(as_text(graph_module), encoding="utf-8")
    torchscript.save(graph_module, example, folder / f"{out.name}-{rank}.pt", form)
    rows = embedding_rows(plan, rank, facts, checkpoint)
    if rows is not None:
        rows.contiguous().view(torch.uint8).numpy().tofile(folder / EMBED)
    return schedule


def _partial(out: Path, rank: int) -> Path:
    return out / f".rank-{rank}.partial"


def _check_out(out: Path) -> None:
    """Only an empty place or an earlier partition may be written over."""
    if out.exists() and not out.is_dir():
        raise ModelError(f"--out {out} is a file; name a directory")
    if (
        out.is_dir()
        and any(out.iterdir())
        and not any((out / n).exists() for n in (MANIFEST, PARTITION))
        and not list(out.glob("*rank-*"))
    ):
        raise ModelError(f"--out {out} holds other files; name a new directory or an earlier package")
