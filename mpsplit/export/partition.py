"""`mpsplit partition`: every rank cuts and traces its own slice.

In: a model, a plan. Out: rank-R/ folders and partition.json.

No weights are read: the graph of the whole slice is traced by its shapes, and what pnnx is given is
its miniature.

All of it is made in .next/ of the package (new_package.py).

Invariant: partition.json is written last; without it the folder is not a partition. A failed run
leaves nothing behind.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from mpsplit.comm import Communicator
from mpsplit.errors import ModelError, MpsplitError
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.model.model_origin import KEY, Origin
from mpsplit.export.model.model_source import read_config
from mpsplit.export.model.tokenizer_files import copy_tokenizer, eos_ids
from mpsplit.export.new_package import copy_config, new_package, parts_of_all
from mpsplit.export.trace import torchscript
from mpsplit.export.trace.capture import calls, capture, check_alike, check_calls, expected_calls
from mpsplit.export.trace.miniature import fingerprint, miniature
from mpsplit.export.trace.slicing import build_whole, expected_weights, ignorable, rope_of, shapes_alone, slice_model
from mpsplit.export.trace.trace_inputs import examples
from mpsplit.export.trace.trace_structure import Shapes, Structure
from mpsplit.export.trace.typed_text import typed_text
from mpsplit.package.manifest import CONFIG, FORM, PARTITION, File, Manifest, RankPart, Rope, rank_folder
from mpsplit.package.together.exchanged import of_rank_0
from mpsplit.package.together.package_commit import NEXT
from mpsplit.package.whole_files import NUMPY_TYPES, write_json
from mpsplit.plan.cuts import Part, source_of
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.placed_plan import PLAN, Placed
from mpsplit.plan.shards import Plan
from mpsplit.progress import track

TYPES = {"float16": "F16", "bfloat16": "BF16"}  # of config.json; anything else is float32


@dataclass(frozen=True)
class Model:
    """What is known of a model before its weights are read: `types` of its tensors by name,
    `origin` None without weights; of a package in its place also which one it is."""

    folder: Path
    name: str
    facts: ModelFacts
    rope: Rope
    eos: tuple[int, ...]
    types: dict[str, str]
    unused: tuple[str, ...]
    origin: Origin | None
    repartitioned_from: str | None = None

    def slice_bytes(self, shapes: Shapes, embed_rows: int) -> int:
        """What convert will read of the checkpoint for slices of these shapes, and for rows of the
        embedding."""
        sizes = [(source_of(name, self.facts), math.prod(shape)) for name, shape in shapes.items()]
        sizes.append((self.facts.family.embedding, embed_rows * self.facts.hidden))
        return sum(count * self._itemsize(name) for name, count in sizes)

    def _itemsize(self, name: str) -> int:
        return np.dtype(NUMPY_TYPES[self.types[name]]).itemsize


def tools(*packages: str) -> dict[str, str]:
    return {name: version(name) for name in packages}


def partition(
    folder: Path,
    plan: Plan,
    out: Path,
    comm: Communicator,
    form: str = "module",
    placed: Placed | None = None,
    structure_only: bool = False,
    force: bool = False,
) -> Manifest:
    """Cuts and traces the shards of this rank, or of all ranks when there is only this process.

    The package keeps `placed`, which says on which machines the plan was meant to run.
    `structure_only`: of config.json alone. `force`: also over a package that is whole.
    """
    return partition_model(examine(folder, structure_only), plan, out, comm, form, placed, force)


def partition_model(
    model: Model,
    plan: Plan,
    out: Path,
    comm: Communicator,
    form: str = "module",
    placed: Placed | None = None,
    force: bool = False,
) -> Manifest:
    plan.check(model.facts)
    with new_package(out, comm, plan.ranks, force) as mine:
        parts = {rank: _partition_rank(model, plan, rank, out, form) for rank in track(mine, "partition")}
        manifest = _manifest(model, plan, parts_of_all(comm, parts), out / NEXT, comm, form)
        if comm.host_lead:
            if placed:
                placed.save(out / NEXT / PLAN)
            write_json(out / NEXT / PARTITION, manifest.to_json() | {KEY: model.origin and model.origin.to_json()})
    return manifest


def _manifest(model: Model, plan: Plan, ranks: list[RankPart], out: Path, comm: Communicator, form: str) -> Manifest:
    """The same for all ranks, with the files that all share."""
    manifest = Manifest(
        model=model.name,
        facts=model.facts,
        plan=plan,
        rope=model.rope,
        dtype=model.types[model.facts.family.embedding],
        eos=model.eos,
        ranks=tuple(ranks),
        tokenizer=tuple(File.of(out, path) for path in copy_tokenizer(model.folder, out)) if comm.host_lead else (),
        unused=model.unused,
        tools=tools("mpsplit", "torch", "transformers", "safetensors")
        | {"python": platform.python_version(), FORM: form},
        config=copy_config(model.folder, out) if comm.host_lead else None,
        repartitioned_from=model.repartitioned_from,
    )
    return of_rank_0(comm, manifest.to_json(), Manifest.of_a_rank)


def examine(folder: Path, structure_only: bool = False) -> Model:
    """The model by its config and by the headers of its files, which must hold what the config asks
    for."""
    config = read_config(folder)
    facts = ModelFacts.from_config(config)
    whole, rope = _of_transformers(folder, facts)
    weights = expected_weights(whole, facts)
    known = folder, folder.resolve().name, facts, rope, eos_ids(folder, config)
    if structure_only:
        kind = TYPES.get(config.get("dtype") or config.get("torch_dtype", ""), "F32")
        return Model(*known, dict.fromkeys(weights, kind), (), None)
    checkpoint = checkpoint_of(folder)
    unused = checkpoint.check(weights, ignorable(facts))
    types = {name: entry.dtype for name, entry in checkpoint.entries.items()}
    checkpoint.close()
    return Model(*known, types, unused, Origin.of(checkpoint))


def _of_transformers(folder: Path, facts: ModelFacts) -> tuple[torch.nn.Module, Rope]:
    """Its modules without weights, and the angles that it turns by."""
    try:
        whole = build_whole(folder)
        rope = rope_of(whole, facts.family)
    except MpsplitError:
        raise
    except Exception as wrong:  # a config can be wrong in as many ways as transformers has checks
        why = " ".join(f"{type(wrong).__name__}: {wrong}".split())
        raise ModelError(f"transformers makes no model of {folder / CONFIG}: {why:.300}") from None
    if not all(map(math.isfinite, (*rope.inverse_frequencies, rope.scaling))):
        raise ModelError(f"{folder / CONFIG} turns by angles that are not finite; look at its rope_parameters")
    return whole, rope


def _partition_rank(model: Model, plan: Plan, rank: int, out: Path, form: str) -> RankPart:
    folder = rank_folder(out / NEXT, rank)
    folder.mkdir(parents=True)
    stage = slice_model(build_whole(model.folder), plan, rank, model.facts, shapes_alone)
    shapes = examples(model.facts)[0]
    graph_module = capture(stage, shapes, "meta", symbolic=False)
    schedule = calls(graph_module)
    check_calls(schedule, expected_calls(plan, rank), rank)
    (folder / "graph.fx.txt").write_text(typed_text(graph_module, shapes.length), encoding="utf-8")
    small = miniature(model.facts, plan, rank)
    in_small = slice_model(build_whole(model.folder, small.changes), small.plan, rank, small.facts, _filled)
    example = examples(small.facts)[0]
    traced = capture(in_small, example)
    check_alike(graph_module, traced, len(plan.shards[rank].layers), len(small.plan.shards[rank].layers))
    torchscript.save(traced, example, folder / f"{out.name}-{rank}.pt", form)
    structure = Structure(*({n: tuple(p.shape) for n, p in s.named_parameters()} for s in (stage, in_small)))
    structure.save(folder)
    return RankPart(schedule, model.slice_bytes(structure.shapes, len(plan.shards[rank].embed)))


def _filled(name: str, part: Part, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(fingerprint(name, shape))
