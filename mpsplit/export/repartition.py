"""`mpsplit repartition`: a package for another plan, without the model that it was made of.

In: a package, a plan. Out: another package.

The new ranks are traced from the config that the package keeps, and converted with its own files in
the checkpoint's place.

Invariant: the old package is only read. Interrupted and started again it goes on, as `convert`
does.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import PackageError
from mpsplit.export.convert import Conversion, convert
from mpsplit.export.graph.pnnx import Pnnx
from mpsplit.export.model.model_origin import File, Origin
from mpsplit.export.partition import Model, examine, partition_model
from mpsplit.export.weights.block_cuts import check_blocks
from mpsplit.export.weights.conversion_weights import Weights
from mpsplit.export.weights.repacked import Repacked
from mpsplit.export.weights.unchanged_files import unchanged
from mpsplit.package.json_fields import flag
from mpsplit.package.manifest import CONFIG, FORM, GRAPH, MANIFEST, PARTITION, WRITTEN, Manifest, rank_folder
from mpsplit.package.manifest_fields import EMBEDDING
from mpsplit.package.sealed.opened import demand_sealed, opened_rank
from mpsplit.package.stored.embedding import HEAD_ROWS
from mpsplit.package.together.exchanged import exchanged, optional, plain
from mpsplit.package.together.package_commit import partition_home
from mpsplit.package.together.package_lock import held
from mpsplit.plan.cuts import one_matrix
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.shards import Plan, Range, Shard


def repartition(
    package: Path,
    plan: Plan,
    out: Path,
    comm: Communicator,
    pnnx: Pnnx,
    placed: Placed | None = None,
    force: bool = False,
) -> Conversion:
    """Makes the files of this rank, or of all ranks when there is only this process. `force`: also
    over another package that is whole."""
    with held(package, "read") if comm.host_lead else nullcontext():
        return _repartition(package, plan, out, comm, pnnx, placed, force)


def _repartition(
    package: Path, plan: Plan, out: Path, comm: Communicator, pnnx: Pnnx, placed: Placed | None, force: bool
) -> Conversion:
    old = Manifest.load(package)
    plan.check(old.facts)
    _check_places(package, old, out)
    mine = range(plan.ranks) if comm.size == 1 else [comm.rank]
    source = _opened(package, old, plan, mine)
    recipe = source.recipe
    check_blocks(old.plan, plan, mine, old.facts, recipe)
    if not all(exchanged(comm, _begun(out, old, plan), plain(flag))):
        partition_model(_model(package, old), plan, out, comm, pnnx.form, placed, force)
    embedding = next(filter(None, exchanged(comm, source.embedding, optional(plain(EMBEDDING)))))
    if old.dtype == HEAD_ROWS and one_matrix(plan, old.facts):
        embedding = HEAD_ROWS
    origin = Origin(package, (File(MANIFEST, 0, 0, old.identity),))
    weights = Weights(source, origin, embedding, lambda name, how: None, old.identity, old.tools.get("recipe"))
    weights = replace(weights, unchanged=unchanged(package, old, source.ranks, weights))
    return convert(out, comm, pnnx, recipe, weights=weights)


def _model(package: Path, old: Manifest) -> Model:
    """The model that the package was made of, as far as it keeps it."""
    model = examine(package, structure_only=True)
    if model.facts != old.facts:
        raise PackageError(
            f"{package / CONFIG} is of another model than the package's manifest; copy the package again"
        )
    origin = Origin.load(package) if (package / PARTITION).is_file() else None
    return replace(
        model, name=old.model, eos=old.eos, unused=old.unused, origin=origin, repartitioned_from=old.identity
    )


def _check_places(package: Path, old: Manifest, out: Path) -> None:
    if old.sealed:
        raise PackageError(
            f"{package} is encrypted, and what repartition writes is not: `mpsplit decrypt` it, repartition that, and"
            " encrypt what it makes"
        )
    demand_sealed(package, old)
    if old.tools.get(FORM) == WRITTEN:
        raise PackageError(
            f"{package} was made from graphs that a script wrote for its plan, not from a model's {CONFIG}; run that"
            " script again with another plan"
        )
    if old.config is None or old.config.path != CONFIG:
        raise PackageError(
            f"{package} keeps no {CONFIG}, as it was made by an earlier mpsplit; partition and convert the model again"
        )
    here, there = package.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise PackageError(f"--out {out} is not beside {package}, which stays as it is; name another directory")


def needed(old: Plan, shards: Iterable[Shard]) -> list[int]:
    """The ranks of the old plan that have something of these shards of the new one."""
    return [theirs.rank for theirs in old.shards if any(_gives(theirs, mine) for mine in shards)]


def _gives(theirs: Shard, mine: Shard) -> bool:
    if any(_meet(getattr(theirs, name), getattr(mine, name)) for name in ("embed", "head")):
        return True
    within = any(_meet(getattr(theirs, name), getattr(mine, name)) for name in ("heads", "kv_heads", "mlp"))
    # it still adds biases, which every rank of a stage has
    bare = not (len(mine.heads) and len(mine.mlp))
    return _meet(theirs.layers, mine.layers) and (within or bare)


def _meet(a: Range, b: Range) -> bool:
    return max(a.start, b.start) < min(a.stop, b.stop)


def _opened(package: Path, old: Manifest, plan: Plan, mine: Iterable[int]) -> Repacked:
    """The files that the new ranks need, when they are here and what the manifest says."""
    ranks = needed(old.plan, [plan.shards[rank] for rank in mine])
    missing = [rank for rank in ranks if not (rank_folder(package, rank) / GRAPH).is_file()]
    if missing:
        raise PackageError(
            f"what is new for rank {', '.join(map(str, mine))} comes from files of rank {', '.join(map(str, missing))}"
            f" of {package}, which are not on this host; copy"
            f" {' and '.join(str(rank_folder(package, rank)) for rank in missing)} here"
        )
    for rank in ranks:
        old.check_files(package, rank)
        with opened_rank(package, old, rank):  # looks its graphs over
            pass
    return Repacked(package, old, ranks)


def _begun(out: Path, old: Manifest, plan: Plan) -> bool:
    """Whether an interrupted repartition has left its traces."""
    with suppress(PackageError):
        begun = Manifest.load(partition_home(out), PARTITION)
        return begun.repartitioned_from == old.identity and begun.plan == plan
    return False
