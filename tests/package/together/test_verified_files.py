"""Files are read once, and again after anything happened to them."""

import os

import pytest

from mpsplit.errors import PackageError
from mpsplit.package import manifest
from mpsplit.package.manifest import File, Manifest
from mpsplit.package.together import verified_files


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """The files that were read; every file counts as settled."""
    found = []
    monkeypatch.setenv("MPSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verified_files, "SETTLED", 0)
    whole = verified_files.sha256
    monkeypatch.setattr(verified_files, "sha256", lambda path: found.append(path.name) or whole(path))
    return found


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def check(path, *, sha256, again=False):
    """As Manifest.check_files does with the file of a package that has only this one."""
    one = manifest.RankPart((), 0, (File(path.name, path.stat().st_size, sha256),))
    package = Manifest("", None, None, None, "", (), (one,), (), (), {})
    package.check_files(path.parent, 0, again=again)


def test_a_second_check_reads_nothing(reads, weights):
    sha256 = File.of(weights.parent, weights).sha256
    for _ in range(3):
        check(weights, sha256=sha256)
    assert reads == ["weights.bin"], "convert's own reading was the only one"
    check(weights, sha256=sha256, again=True)
    assert len(reads) == 2


def test_changed_content_of_the_same_size_and_time_is_found(reads, weights):
    sha256, before = File.of(weights.parent, weights).sha256, weights.stat()
    with open(weights, "r+b") as file:
        file.write(b"x")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_mtime_ns == before.st_mtime_ns and weights.stat().st_ino == before.st_ino
    with pytest.raises(PackageError, match="was changed: its sha256 differs"):
        check(weights, sha256=sha256)


@pytest.mark.parametrize("harm", ("touch", "replace"))
def test_a_file_that_was_touched_is_read_once_more(reads, weights, harm):
    sha256 = File.of(weights.parent, weights).sha256
    if harm == "touch":
        weights.touch()
    else:
        copy = weights.with_name("copy")
        copy.write_bytes(weights.read_bytes())
        os.replace(copy, weights)
    check(weights, sha256=sha256)
    check(weights, sha256=sha256)
    assert len(reads) == 2


def test_a_manifest_that_says_otherwise_is_not_believed(reads, weights):
    File.of(weights.parent, weights)
    with pytest.raises(PackageError, match="was changed"):
        check(weights, sha256="0" * 64)


@pytest.mark.parametrize("harm", (b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"sha256": 1, "identity": 2}', "a folder"))
def test_a_damaged_stamp_is_as_good_as_none(reads, weights, harm):
    sha256 = File.of(weights.parent, weights).sha256
    (stamp,) = (weights.parent / "cache" / "verified").iterdir()
    if harm == "a folder":
        stamp.unlink()
        stamp.mkdir()
    else:
        stamp.write_bytes(harm)
    check(weights, sha256=sha256)
    assert len(reads) == 2


def test_what_changed_just_now_is_not_remembered(reads, weights, monkeypatch):
    monkeypatch.setattr(verified_files, "SETTLED", 60 * 10**9)
    os.utime(weights, ns=(0, 0))  # its content looks old, and the file does not
    sha256 = File.of(weights.parent, weights).sha256
    check(weights, sha256=sha256)
    assert len(reads) == 2


def test_what_changed_while_it_was_read_is_not_believed(reads, weights, monkeypatch):
    counted = verified_files.sha256
    monkeypatch.setattr(verified_files, "sha256", lambda path: (counted(path), path.write_bytes(b"new"))[0])
    before = File.of(weights.parent, weights).sha256
    monkeypatch.setattr(verified_files, "sha256", counted)
    with pytest.raises(PackageError, match="was changed"):
        check(weights, sha256=before)
    assert len(reads) == 2


def test_no_place_to_remember_is_no_failure(reads, weights, monkeypatch):
    monkeypatch.setenv("MPSPLIT_CACHE", "/dev/null/nowhere")
    check(weights, sha256=File.of(weights.parent, weights).sha256)
    assert len(reads) == 2
