"""What may stand in manifest.json and partition.json, as tables.

In: their JSON. Out: nothing, or a PackageError that says where.

The bounds are far from every model that there is, and near enough that nothing absurd is allocated
or counted through.
"""

from __future__ import annotations

from typing import Any

from mpsplit.errors import PackageError
from mpsplit.families import FAMILIES
from mpsplit.package.collectives import BY_OPERATOR
from mpsplit.package.json_fields import Kind, flag, many, mapping, number, one_of, record, text, whole
from mpsplit.package.sealed.vault import ALGORITHMS, LARGEST_CHUNK
from mpsplit.package.stored.embedding import HEAD_ROWS, dtype_of
from mpsplit.package.stored.quantisation import BLOCKS
from mpsplit.package.whole_files import NUMPY_TYPES

RANKS, LAYERS, HEADS, SIZES = 4096, 4096, 4096, 1 << 24
ANGLES = 1 << 26  # context x frequencies: tables of cos and sin of 256 MB each
BYTES = 1 << 50
# half a character cannot be printed
TEXT = text(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,4096}", "text of one line")
HASH = text(r"[0-9a-f]{64}", "a sha256")
# plain names one below the other: no way out of the package, no hidden files
PATH = text(r"(?!.{256})[\w-][\w.+-]*(/[\w-][\w.+-]*)*", "a path inside the package")


def _range(most: int) -> Kind:
    ends = record({"start": whole(0, most), "stop": whole(0, most)})

    def check(value: Any, where: str) -> None:
        ends(value, where)
        if value["start"] > value["stop"]:
            raise PackageError(f"{where} ends at {value['stop']}, before it begins at {value['start']}")

    return check


FILE = record({"path": PATH, "size": whole(0, BYTES), "sha256": HASH})
FILES = many(FILE, 4096)
SHARD = record(
    {"rank": whole(0, RANKS), "stage": whole(0, RANKS)}
    | {
        name: _range(most)
        for name, most in (("layers", LAYERS), ("heads", HEADS), ("kv_heads", HEADS))
        + (("mlp", SIZES), ("embed", SIZES), ("head", SIZES))
    }
)
FACTS = record(
    {"architecture": one_of(FAMILIES), "tied": flag, "layers": whole(0, LAYERS)}
    | {name: whole(1, HEADS) for name in ("heads", "kv_heads")}
    | {name: whole(1, SIZES) for name in ("hidden", "head_dim", "mlp", "vocabulary", "context")},
    {"window": whole(0, SIZES)},
)
PACKAGE_ID = text(r"[0-9a-f]{32}", "32 hex digits")
SEAL = record(
    {
        "algorithm": one_of(ALGORITHMS),
        "chunk": whole(1, LARGEST_CHUNK),
        "package": PACKAGE_ID,
        "key": text(r"[0-9a-f]{32}", "32 hex digits"),
        "proof": HASH,
    }
)


def call_fields(value: Any, where: str) -> None:
    """["all_gather", group, size]"""
    if type(value) is not list or not value:
        raise PackageError(f"{where} is no collective")
    one_of(BY_OPERATOR)(value[0], where)
    many(whole(0, SIZES), 8)(value[1:], where)
    if len(value) - 1 != len(wanted := BY_OPERATOR[value[0]].arguments):
        raise PackageError(f"{where} has {len(value) - 1} arguments, {value[0]} takes {', '.join(wanted)}")


def _object(value: Any, where: str) -> None:
    """Its reader looks at what is in it."""
    if type(value) is not dict:
        raise PackageError(f"{where} is no object")


EMBEDDING = one_of((*NUMPY_TYPES, *map(dtype_of, BLOCKS), HEAD_ROWS))
SCHEDULE = many(call_fields, 1 << 16)
RANK = record({"schedule": SCHEDULE, "weight_bytes": whole(0, BYTES), "files": FILES})
MANIFEST = record(
    {
        "model": TEXT,
        "facts": FACTS,
        "plan": record({"shards": many(SHARD, RANKS)}),
        "rope": record({"inverse_frequencies": many(number(1e6), 1 << 16), "scaling": number(1e6)}),
        "dtype": EMBEDDING,
        "eos": many(whole(0, SIZES), 4096),
        "ranks": many(RANK, RANKS),
        "tokenizer": FILES,
        "unused": many(TEXT, 1 << 20),
        "tools": mapping(TEXT, 4096),
    },
    {"sealed": SEAL, "verified": _object, "config": FILE, "repartitioned_from": HASH},
)


def check_manifest(data: dict[str, Any]) -> None:
    MANIFEST(data, "it")
    shards, ranks = len(data["plan"]["shards"]), len(data["ranks"])
    if shards != ranks or not ranks:
        raise PackageError(f"its plan has {shards} shards, its list of ranks {ranks}")
    frequencies, context = len(data["rope"]["inverse_frequencies"]), data["facts"]["context"]
    if not frequencies or frequencies * context > ANGLES:
        raise PackageError(f"{frequencies} frequencies at {context} positions are more than any model has")
    for part in (*data["ranks"], {"files": data["tokenizer"]}):
        paths = [file["path"] for file in part["files"]]
        if len(set(paths)) < len(paths):
            raise PackageError("a file is listed twice")
