"""Weights by content: what changed is made again and nothing else, packages share files, a full
disk and a key."""

import json
import os
import shutil
import subprocess
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError, PackageError
from mpsplit.export.convert import convert
from mpsplit.export.graph.pnnx import find_pnnx
from mpsplit.package.manifest import MANIFEST, Manifest
from mpsplit.package.sealed.encryption import decrypt
from mpsplit.package.sealed.keys import Key, KeySource
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.stored.weight_files import WeightFiles
from mpsplit.runtime.load import load_engine
from tests.missing import needs, skip
from tests.models import EXAMPLE
from tests.packages import digests, partition_evenly, weight_path

pytestmark = needs("the kernels")
ROOM = 360_000  # bytes: for graphs, not for float32
Q4, KEY = Recipe.parse("q4", 32), Key(b"\x07" * 32)


@pytest.fixture(scope="module")
def model(model_of, tmp_path_factory):
    """One of our own, to be changed."""
    return shutil.copytree(model_of("llama"), tmp_path_factory.mktemp("store") / "model")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "package"
    partition_evenly(model, out, 1, 1)
    convert(out, Alone(), find_pnnx(), Q4)
    return out


@pytest.fixture
def package(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "package")


def again(package, recipe=Q4, **more) -> int:
    """Bytes of the checkpoint that a conversion reads."""
    return convert(package, Alone(), find_pnnx(), recipe, **more).read[0]


def inodes(package, rank=0) -> dict[str, int]:
    folder = package / f"rank-{rank}"
    return {name: (folder / name).stat().st_ino for name in WeightFiles.load(folder).names}


def names(package) -> tuple[str, ...]:
    return tuple(name for _, name in WeightFiles.load(package / "rank-0").packed)


def logits(package, keys=None) -> np.ndarray:
    engine = load_engine(package, Alone(), "stock", *([keys] if keys else []))
    found = engine.step([5, 9, 2], 0, True)
    engine.close()
    return found


def test_a_layer_of_another_kind_is_one_file(package):
    before, files = inodes(package), names(package)
    assert len(files) == 4  # three layers and the head
    read = again(package, Recipe.parse("q4", 32, "layers.1.*=q8"))
    now = names(package)
    assert [a == b for a, b in zip(files, now, strict=True)] == [True, False, True, True]
    assert 0 < read < Manifest.load(package).ranks[0].weight_bytes / 3
    kept = before.keys() & inodes(package).keys()
    assert len(kept) == len(before) - 1 and all(before[name] == inodes(package)[name] for name in kept)
    left = {path.name for path in (package / "rank-0" / "weights").iterdir()}
    # the old one has gone
    assert left == {"index.json", *(name.partition("/")[2] for name in inodes(package))}


def test_a_model_that_was_tuned_in_one_layer(whole, model, package, tmp_path):
    """Partitioned again and converted: the slices are read, one file of packed weights is
    written."""
    tuned = shutil.copytree(model, tmp_path / "tuned")
    tensors = load_file(tuned / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.2.mlp.up_proj.weight"] + 1
    save_file(tensors, tuned / "model.safetensors", {"format": "pt"})
    before = inodes(package)
    partition_evenly(tuned, package, 1, 1, force=True)
    again(package)
    after = inodes(package)
    assert [a == b for a, b in zip(names(whole), names(package), strict=True)] == [True, True, False, True]
    assert {name for name in after if before.get(name) != after[name]} == {names(package)[2]}
    fresh = tmp_path / "fresh" / "package"
    partition_evenly(tuned, fresh, 1, 1)
    again(fresh)
    assert digests(fresh) == digests(package)


def test_packages_of_two_contexts_share_one_copy(whole, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "longer", copy_function=shutil.copy2)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 192}))
    out = tmp_path / "package"
    partition_evenly(other, out, 1, 1)
    with pytest.raises(ConvertError, match="model has no ranks to share weights with"):
        again(out, share_with=model)
    assert again(out, share_with=whole) == 0
    assert inodes(out) == inodes(whole) and Manifest.load(out).facts.context == 192
    np.testing.assert_array_equal(logits(out), logits(whole))
    weight_path(out / "rank-0").unlink()  # what one lets go of stays with the other
    again(whole)
    assert again(out, share_with=whole) == 0 and inodes(out) == inodes(whole)


def test_an_index_that_lies_is_not_followed(whole, model, package, tmp_path):
    """Names that lead out of the folder are nobody's; a file with other bytes than promised is made
    again."""
    path = package / "rank-0" / "weights" / "index.json"
    told = json.loads(path.read_text())
    for entry in told["files"].values():
        entry["name"] = "../../../etc/passwd"
    path.write_text(json.dumps(told))
    assert again(package) > 0
    assert digests(package) == digests(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        skip("mount", f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("told_before", [True, False])
def test_a_disk_that_fills_up(whole, small_disk, monkeypatch, told_before):
    """Before the work when the disk says so, in the midst of it otherwise; the old package stays,
    and goes on when there is room."""
    package, ballast = shutil.copytree(whole, small_disk / "package"), small_disk / "ballast"
    before, expected = digests(package), logits(package)
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - ROOM))
    if not told_before:
        plenty = namedtuple("Usage", "total used free")(10**9, 0, 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: plenty)
    with pytest.raises(ConvertError, match=r"the weights need [\d,]{6,} bytes more in .*make room there"):
        again(package, Recipe())
    assert digests(package) == before
    np.testing.assert_array_equal(logits(package), expected)
    ballast.unlink()
    again(package, Recipe())
    assert not names(package) and logits(package).shape == expected.shape


def test_encrypted_as_it_is_converted(package_of, tmp_path):
    whole, package, key = package_of(EXAMPLE, 1, 1), tmp_path / "package", tmp_path / "key"
    key.write_bytes(KEY.secret)
    partition_evenly(EXAMPLE, package, 1, 1)
    read = again(package, Recipe(), key=KEY)
    manifest = Manifest.load(package)
    assert read == manifest.ranks[0].weight_bytes and manifest.sealed.key == KEY.name
    assert [file.path for file in manifest.tokenizer] == [file.path for file in Manifest.load(whole).tokenizer] != []
    np.testing.assert_array_equal(logits(package, KeySource(str(key))), logits(whole))
    plain = [(whole / file.path).read_bytes() for file in Manifest.load(whole).files]
    pieces = {data[at : at + 24] for data in plain for at in range(0, len(data) - 24, max(1, len(data) // 50))}
    pieces = [piece for piece in pieces if len(set(piece)) > 12]
    sealed = [(package / file.path).read_bytes() for file in manifest.files]
    assert len(pieces) > 100 and not any(piece in data for data in sealed for piece in pieces)
    assert not (package / "rank-0" / "passes").exists()
    with pytest.raises(PackageError, match="was encrypted with another key"):
        load_engine(package, Alone(), "stock", KeySource(command=f"echo {'00' * 32}"))
    with pytest.raises(PackageError, match=r"tokenizer.json cannot be decrypted: .*give the key it was encrypted with"):
        again(package, Recipe(), key=Key(bytes(32)))
    with pytest.raises(ConvertError, match=r"tokenizer.json is encrypted; convert with --encrypt and its key"):
        again(package, Recipe())
    assert again(package, Recipe(), key=KEY) == 0  # the same files under another signature
    assert replace(Manifest.load(package).sealed, proof="") == replace(manifest.sealed, proof="")
    decrypt(package, tmp_path / "plain", KEY)
    np.testing.assert_array_equal(logits(tmp_path / "plain"), logits(whole))


def test_a_sealed_file_is_never_continued(model, tmp_path, monkeypatch):
    """Interrupted, what is whole is kept, and what is not is begun anew."""
    package = tmp_path / "package"
    partition_evenly(model, package, 1, 1)
    real, count = os.replace, [0]

    def interrupted(source, target):
        count[0] += str(target).endswith(".bin")
        if count[0] == 3:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again(package, key=KEY)
    folder = package / "rank-0" / "weights"
    partial, kept = list(folder.glob(".*.partial")), {path: path.stat().st_ino for path in folder.glob("*.bin")}
    assert len(partial) == 1 and len(kept) == 2 and not (package / MANIFEST).exists()
    assert 0 < again(package, key=KEY) < Manifest.load(package).ranks[0].weight_bytes
    assert not partial[0].exists() and all(path.stat().st_ino == inode for path, inode in kept.items())
