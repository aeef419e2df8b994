"""Packages as tests make, compare and harm them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from mpsplit.comm import Alone
from mpsplit.package.manifest import Manifest, RankPart, Rope
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.shards import even_plan
from tests.models import facts


def weight_path(folder: Path, role: str = "floats", number: int = 0) -> Path:
    """A weight file of a rank: its floats, its embedding, or one of the packed."""
    files = WeightFiles.load(folder)
    return folder / (files.packed[number][1] if role == "packed" else getattr(files, role))


def small_manifest(**changes) -> Manifest:
    """Of one rank without files."""
    plan, rope = even_plan(facts(), 1, 1), Rope((1.0, 0.5), 1.0)
    return Manifest("small", facts(), plan, rope, "F32", (2,), (RankPart((), 0),), (), (), {}, **changes)


def digests(package: Path) -> dict[str, str]:
    """Every file of the package and its hash; traces and the account of passes are by-products."""
    manifest = Manifest.load(package)
    names = [
        "manifest.json",
        *(f.path for f in manifest.tokenizer),
        *(f.path for part in manifest.ranks for f in part.files),
    ]
    return {name: hashlib.sha256((package / name).read_bytes()).hexdigest() for name in names}


def partition_evenly(
    folder: Path, out: Path, tensor: int, pipeline: int, comm=None, form="module", force=False
) -> Manifest:
    """Partitions the model in `folder`; torch is loaded only now."""
    from mpsplit.export.model.model_source import read_config
    from mpsplit.export.partition import partition
    from mpsplit.plan.model_facts import ModelFacts
    from tests.traced import trace_once

    trace_once()
    plan = even_plan(ModelFacts.from_config(read_config(folder)), tensor, pipeline)
    return partition(folder, plan, out, comm or Alone(), form, force=force)


def edit_manifest(package: Path, change) -> None:
    """`change` is given the manifest as JSON has it."""
    path = package / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def put(*keys_and_value):
    """A change that sets what stands under these keys."""
    *way, last, value = keys_and_value

    def change(data):
        for key in way:
            data = data[key]
        data[last] = value

    return change


def mutated(data: bytes, seed: int) -> bytes:
    """A few bytes changed, cut out, doubled, or a number made another."""
    rng, out = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 8, 100))
        piece = out[at : at + length]
        random_bytes = bytes(rng.randrange(256) for _ in piece)
        new = rng.choice((b"", random_bytes, piece * 2, b"999999999", b"-1", b"0", b'"', b"[", b"\n", b"nan", b" "))
        out[at : at + length] = new
    return bytes(out)
