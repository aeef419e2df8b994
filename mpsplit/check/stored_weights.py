"""Each weight of a package against the checkpoint's, before anything is computed.

In: a rank's files, the model. Out: how far each kind of weight is off at its worst place, and what
is not there or too far off.

A kind bounds its own error, whoever chose the scales: no block of neighbours is rounded worse than
to the nearest of the steps that just reach its largest weight. So the limits are no measurements.

Invariant: each rank reads its own slices alone, in pieces of a few megabytes, never a whole tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpsplit.check.weight_bounds import BOUNDS
from mpsplit.comm import Communicator
from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.checkpoints import checkpoint_of
from mpsplit.export.weights.repacked import Repacked
from mpsplit.export.weights.weight_contents import some_panels
from mpsplit.package.agreement import WeightsAgreement, floats, plain
from mpsplit.package.json_fields import many, text
from mpsplit.package.manifest import Manifest
from mpsplit.package.sealed.keys import KeySource
from mpsplit.package.sealed.opened import opened_rank
from mpsplit.package.stored.quantisation import BFLOAT, Quantisation
from mpsplit.package.stored.recipe import METHODS
from mpsplit.package.together.exchanged import exchanged
from mpsplit.plan.cuts import part_of, source_of
from mpsplit.progress import track

AT_ONCE = 4 << 20  # bytes of float32
SMALLEST_HALF = 2.0**-24  # a 16-bit scale can be off by half of it
TINY = float(np.finfo(np.float32).tiny)
TOLD = 8  # files of a rank that are wrong


@dataclass(frozen=True)
class Found:
    """One weight of a rank, and how far it is `off`, in the unit of its kind's bound. Of no `file`
    and no `kind` where it is missing."""

    rank: int
    file: str
    weight: str
    kind: str
    off: float

    @property
    def holds(self) -> bool:
        return bool(self.kind) and self.off <= BOUNDS[self.kind].most


def told(wrong: Sequence[Found]) -> list[str]:
    """A line for each file: its worst weight, and how many more."""
    lines = []
    for file in dict.fromkeys(found.file for found in wrong):
        of_file = [found for found in wrong if found.file == file]
        worst = max(of_file, key=lambda found: found.off)
        more = f" (and {len(of_file) - 1} more)" if len(of_file) > 1 else ""
        where = f"rank {worst.rank}: {worst.weight}{more}"
        if not worst.kind:
            lines.append(f"{where} is not in the package; convert again")
            continue
        bound = BOUNDS[worst.kind]
        lines.append(
            f"{where} in {file} is {worst.off:.3g} {bound.unit} off the model's, {bound.most:g} is allowed"
            f" ({bound.why}); copy the file again, or convert again"
        )
    return lines


def check_weights(
    package: Path, manifest: Manifest, folder: Path, comm: Communicator, keys: KeySource
) -> tuple[tuple[WeightsAgreement, ...], tuple[str, ...]]:
    """On all ranks: of all of them, the worst of each kind, and what is wrong."""
    worst: dict[str, WeightsAgreement] = {}
    wrong: list[Found] = []
    with opened_rank(package, manifest, comm.rank, keys) as plain_package:
        for found in found_weights(plain_package, manifest, folder, comm.rank):
            if not found.holds:
                wrong.append(found)
            if found.kind:
                _add(worst, WeightsAgreement(found.kind, 1, found.off))
    lines = told(wrong)
    more = [f"and {len(lines) - TOLD} files more of rank {comm.rank}"] if len(lines) > TOLD else []
    mine = {"worst": [plain(of_kind) for of_kind in worst.values()], "wrong": lines[:TOLD] + more}
    total: dict[str, WeightsAgreement] = {}
    texts: list[str] = []
    for of_rank, wrong_there in exchanged(comm, mine, _of_a_rank):
        texts += wrong_there
        for of_kind in of_rank:
            _add(total, of_kind)
    return tuple(total.values()), tuple(texts)


def _add(worst: dict[str, WeightsAgreement], more: WeightsAgreement) -> None:
    before = worst.get(more.kind, WeightsAgreement(more.kind, 0, 0.0))
    worst[more.kind] = WeightsAgreement(more.kind, before.count + more.count, max(before.worst, more.worst))


def _of_a_rank(data: dict[str, Any]) -> tuple[list[WeightsAgreement], list[str]]:
    many(text(r".{0,2000}", "a line"), TOLD + 1)(data["wrong"], "what is wrong")
    return [WeightsAgreement(**floats(worst, WeightsAgreement)) for worst in data["worst"]], data["wrong"]


def method_of(manifest: Manifest) -> str:
    """The method of calibration that the package was made with; empty without."""
    found = re.search(r"([a-z+]+) over [\d,]+ tokens", manifest.tools.get("recipe", ""))
    return found[1] if found and found[1] in METHODS else ""


def found_weights(package: Path, manifest: Manifest, folder: Path, rank: int) -> Iterator[Found]:
    """What each weight of the rank is off, and which are missing."""
    facts, shard, method = manifest.facts, manifest.plan.shards[rank], method_of(manifest)
    stored, checkpoint = Repacked(package, manifest, [rank], foreign=True), checkpoint_of(folder)
    try:
        for name in track(_owned(checkpoint, manifest, rank), f"weights of rank {rank}"):
            piece = stored.slice_of(name)
            if name in stored.foreign or "awq" in method and name != facts.family.embedding:
                continue  # judged by what its layer makes of it alone
            if piece is None:
                yield Found(rank, "", name, "", np.inf)
                continue
            kind, how = _kind_of(stored, name, method)
            source, part = source_of(name, facts), part_of(name, shard, facts)
            assert part is not None, f"{name} is owned"
            pieces = (
                (stored.floats(name, rows), checkpoint.floats(source, part, rows.start, rows.stop))
                for rows in some_panels(piece.shape, AT_ONCE)
            )
            file = piece.file.relative_to(package).as_posix()
            yield Found(rank, file, name, kind, MEASURES[kind](pieces, how))
    finally:
        stored.close()
        checkpoint.close()


def _owned(checkpoint: Checkpoint, manifest: Manifest, rank: int) -> list[str]:
    """The weights that the plan gives the rank."""
    facts, shard = manifest.facts, manifest.plan.shards[rank]
    names = [*checkpoint.entries, *([facts.family.head] if facts.tied else [])]
    return [name for name in dict.fromkeys(names) if facts.family.role_of(name) and part_of(name, shard, facts)]


def _kind_of(stored: Repacked, name: str, method: str) -> tuple[str, Quantisation]:
    how = stored.how_of(name)
    if not how.bits:
        return "exact", how
    if how.bits == BFLOAT:
        return "bf16", how
    if how.is_given:
        return "kept", how
    return "gptq" if method else "rounded", how


Pieces = Iterable[tuple[np.ndarray, np.ndarray]]  # float32 rows of the package, and the model's


def _exact(pieces: Pieces, how: Quantisation) -> float:
    most = largest = 0.0
    for here, model in pieces:
        most = max(most, _most(np.abs(here - model)))
        largest = max(largest, _most(np.abs(model)))
    return most / max(largest, TINY)


def _bfloats(pieces: Pieces, how: Quantisation) -> float:
    """A number of 8 bits is off by at most 2^-8 of itself."""
    return max(_most(np.abs(here - model) / np.maximum(np.abs(model) * 2.0**-8, TINY)) for here, model in pieces)


def _worst_block(pieces: Pieces, how: Quantisation) -> float:
    return max(_most(np.sqrt(np.mean(np.square(_in_steps(*piece, how)), axis=-1))) for piece in pieces)


def _whole_matrix(pieces: Pieces, how: Quantisation) -> float:
    total = count = 0.0
    for piece in pieces:
        off = _in_steps(*piece, how)
        total, count = total + float(np.square(off).sum(dtype=np.float64)), count + off.size
    return math.sqrt(total / count)


MEASURES = {"exact": _exact, "kept": _exact, "bf16": _bfloats, "rounded": _worst_block, "gptq": _whole_matrix}


def _in_steps(here: np.ndarray, model: np.ndarray, how: Quantisation) -> np.ndarray:
    """float32 [n, blocks, block]: differences over the step of a scale that just reaches the
    largest of the model's block, and over what a scale of 16 bits cannot say."""
    blocks = model.reshape(len(model), -1, how.one_scale)
    steps = np.abs(blocks).max(-1, keepdims=True) * how.step - how.lowest * SMALLEST_HALF
    return (here.reshape(blocks.shape) - blocks) / steps


def _most(numbers: np.ndarray) -> float:
    """Infinite where any is no number."""
    largest = float(numbers.max(initial=0.0))
    return largest if largest == largest else np.inf
