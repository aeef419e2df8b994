"""What Python reads and somebody else may have written, changed at random: it is refused in the
reader's own words, or read as something that is written and read again alike.

Each reader is a row: the bytes that mpsplit writes, and a function from bytes to what they mean.
The seeds are fixed, so that a failure comes back: `-k kept.json --seeds 17:18`.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mpsplit.errors import ClusterError, MpsplitError, PackageError, PlanError
from mpsplit.package.manifest import Manifest
from mpsplit.package.sealed.keys import Key
from mpsplit.package.sealed.vault import Vault
from mpsplit.package.stored.rank_text import rank_text
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.plan.cluster import described
from mpsplit.plan.placed_plan import Placed
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.kept.kept_texts import KeptText, Unusable
from mpsplit.runtime.kept.segments import Segment, tokens_sha256
from mpsplit.runtime.loop.orders import BadOrder
from tests.extensions.fuzz_seeds import FILES, orders
from tests.extensions.scripts import follow_script
from tests.models import facts
from tests.packages import mutated, small_manifest

SECONDS = 1.0  # of this process, for one reading
FEW, MANY = 300, 20_000  # changes of each file; MANY with --thorough
FOLDER = "sessions/anyone/mine"


@dataclass(frozen=True)
class Reader:
    """`read` raises one of `refuses`, or gives what the file means. What is sealed means what it
    did before."""

    name: str
    refuses: tuple[type[MpsplitError], ...]
    written: Callable[[Path], bytes]
    read: Callable[[Path, bytes], object]
    sealed: bool = False


# -- manifest.json ----------------------------------------------------------------------------


def manifest_written(folder: Path) -> bytes:
    small_manifest().save(folder)
    return (folder / "manifest.json").read_bytes()


def manifest_read(folder: Path, data: bytes) -> Manifest:
    (folder / "manifest.json").write_bytes(data)
    manifest = Manifest.load(folder)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    return manifest


# -- rank.txt -------------------------------------------------------------------------------------


def rank_written(_: Path) -> bytes:
    return rank_text(small_manifest(), 0, FILES).encode()


def rank_read(folder: Path, data: bytes) -> WeightFiles:
    (folder / "rank.txt").write_bytes(data)
    files = WeightFiles.load(folder)
    (folder / "rank.txt").write_text(rank_text(small_manifest(), 0, files))
    assert WeightFiles.load(folder) == files
    return files


# -- kept.json ------------------------------------------------------------------------------------


def kept_written(folder: Path) -> bytes:
    tokens = tuple(range(100, 170))
    hashes = [tokens_sha256(tokens[:40]), tokens_sha256(tokens)]
    segments = Segment("0" * 32, 0, 40, hashes[0], 900), Segment("1" * 32, 32, 70, hashes[1], 700)
    KeptText(FOLDER, "w" * 64, "f32", tokens, {"turns": 2, "text": "é"}, segments).save(folder)
    return (folder / FOLDER / "kept.json").read_bytes()


def kept_read(folder: Path, data: bytes) -> KeptText:
    (folder / FOLDER / "kept.json").write_bytes(data)
    kept = KeptText.read(folder, FOLDER)
    kept.save(folder)
    assert KeptText.read(folder, FOLDER) == kept
    return kept


# -- sealed files ---------------------------------------------------------------------------------

SALT = Vault.new(Key(bytes(range(32))), chunk=32)


def sealed_written(folder: Path) -> bytes:
    with SALT.create(folder / "sealed", "rank-0/f") as file:
        file.write(bytes(range(100)))
    return (folder / "sealed").read_bytes()


def sealed_read(folder: Path, data: bytes) -> bytes:
    (folder / "sealed").write_bytes(data)
    with SALT.open(folder / "sealed", "rank-0/f") as file:
        return file.read()


# -- plan.json ------------------------------------------------------------------------------------


def plan_written(folder: Path) -> bytes:
    Placed(even_plan(facts(), 2, 1), described([8 << 30] * 2), Job()).save(folder / "plan.json")
    return (folder / "plan.json").read_bytes()


def plan_read(folder: Path, data: bytes) -> Placed | None:
    (folder / "plan.json").write_bytes(data)
    placed = Placed.load(folder / "plan.json")
    if placed:
        placed.save(folder / "plan.json")
        assert Placed.load(folder / "plan.json") == placed
    return placed


# -- orders ---------------------------------------------------------------------------------------


def orders_read(_: Path, data: bytes) -> None:
    try:
        follow_script(data)
    except BadOrder as wrong:
        assert str(wrong).startswith(("rank 1 cannot obey order ", "rank 0 gave order "))
        raise


ORDERS = [
    Reader(f"orders {name}", (BadOrder,), lambda _, data=data: data, orders_read)
    for name, data in orders().items()
    if name.endswith("f32")
]
READERS = [
    Reader("manifest.json", (PackageError,), manifest_written, manifest_read),
    Reader("rank.txt", (PackageError,), rank_written, rank_read),
    Reader("kept.json", (Unusable,), kept_written, kept_read),
    Reader("a sealed file", (PackageError,), sealed_written, sealed_read, sealed=True),
    Reader("plan.json", (PlanError, ClusterError), plan_written, plan_read),
    *ORDERS,
]

NUMBERS = (0, 1, -1, 2, 3, 7, 31, 32, 33, 2**24, 2**31 - 1, 2**31, 2**53, 2**63 - 1, -(2**63))


def words_changed(data: bytes, seed: int) -> bytes:
    """A few of the numbers of 8 bytes made others, cut out or doubled."""
    rng, words = random.Random(seed), np.frombuffer(bytearray(data), np.int64).tolist()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words))
        new = rng.choice((NUMBERS, NUMBERS, NUMBERS, [words[at] + 1], [words[at] - 1]))
        words[at : at + 1] = rng.choice(([rng.choice(new)], [rng.choice(new)], [rng.choice(new)], [], [words[at]] * 2))
    bounded = [(word + 2**63) % 2**64 - 2**63 for word in words]
    return np.array(bounded, np.int64).tobytes()


def json_changed(data: bytes, seed: int) -> bytes:
    """One value of a JSON text made another, wherever it stands."""
    rng, tree = random.Random(seed), json.loads(data)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(places)
    node[key] = rng.choice((*NUMBERS, None, True, "", "x", "é", [], {}, [1], {"a": 1}, 0.5, 1e300, 10**400, [[]] * 3))
    return json.dumps(tree).encode()


def changed(reader: Reader, data: bytes, seed: int) -> bytes:
    if reader.name.startswith("orders") and seed % 4:
        return words_changed(data, seed)
    if reader.name.endswith(".json") and seed % 2:
        return json_changed(data, seed)
    return mutated(data, seed)


@pytest.fixture
def seeds(request) -> range:
    given = request.config.option.seeds
    if given:
        return range(*map(int, given.split(":")))
    return range(MANY if request.config.option.thorough else FEW)


@pytest.mark.seconds(1800)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whatever_is_changed_it_is_refused_or_right(reader, seeds, tmp_path):
    data = reader.written(tmp_path)
    meaning, refused = reader.read(tmp_path, data), 0
    for seed in seeds:
        began = time.process_time()
        try:
            found = reader.read(tmp_path, changed(reader, data, seed))
            assert not reader.sealed or found == meaning, f"seed {seed}: read as something else"
        except reader.refuses as wrong:
            refused += 1
            assert "\n" not in str(wrong), f"seed {seed}: {wrong}"
        except Exception as wrong:
            raise AssertionError(f"seed {seed} ends in {type(wrong).__name__}: {wrong}") from wrong
        spent = time.process_time() - began
        assert spent < SECONDS, f"seed {seed} takes {spent:.1f} s"
    assert refused > len(seeds) / 4, "changes hardly change anything"
