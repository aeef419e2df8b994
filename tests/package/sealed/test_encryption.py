import os
import shutil
from pathlib import Path

import pytest

from mpsplit.comm import Alone
from mpsplit.errors import PackageError
from mpsplit.export.repartition import repartition
from mpsplit.package.inside.difference import differences
from mpsplit.package.manifest import Manifest
from mpsplit.package.sealed import encryption
from mpsplit.package.sealed.encryption import decrypt, encrypt
from mpsplit.package.sealed.keys import Key, KeySource
from mpsplit.package.sealed.opened import authenticate, opened, opened_rank, text_of
from tests.packages import weight_path
from tests.running import CLEAN, completed

KEY = Key(b"\x07" * 32)


@pytest.fixture(scope="module")
def plain(package_of):
    return package_of("llama", 2, 1)


@pytest.fixture
def sealed(plain, tmp_path):
    encrypt(plain, tmp_path / "sealed", KEY)
    return tmp_path / "sealed"


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "key").write_text(KEY.secret.hex())
    return KeySource(str(tmp_path / "key"))


def windows(package: Path) -> set[bytes]:
    """Pieces of every file of a package: what must be nowhere else, but for names, which the
    manifest has too."""
    found, manifest = set(), (package / "manifest.json").read_bytes()
    for file in Manifest.load(package).files:
        data = (package / file.path).read_bytes()
        found |= {data[i : i + 24] for i in range(0, len(data) - 24, max(1, len(data) // 20))}
    return {piece for piece in found if len(set(piece)) > 8 and piece not in manifest}


def test_there_and_back(plain, sealed, tmp_path):
    manifest = Manifest.load(sealed)
    assert manifest.sealed and manifest.sealed.key == KEY.name
    decrypt(sealed, tmp_path / "back", KEY)
    listed = ["manifest.json", *(file.path for file in manifest.files)]
    for path in listed:
        assert (tmp_path / "back" / path).read_bytes() == (plain / path).read_bytes(), path
    for folder in (sealed, tmp_path / "back"):
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(listed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "sealed"]


def test_no_plain_bytes_are_on_disk(plain, sealed, keys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pieces, manifest = windows(plain), Manifest.load(sealed)
    assert len(pieces) > 100

    def scan():
        for folder, _, names in os.walk(tmp_path):
            for path in (Path(folder, name) for name in names):
                if not path.is_symlink() and (data := path.read_bytes()):
                    assert not [piece for piece in pieces if piece in data], path

    with opened_rank(sealed, manifest, 1, keys) as folder:
        assert folder.parent == tmp_path and weight_path(folder / "rank-1").is_symlink()
        for file in manifest.ranks[1].files:
            assert (folder / file.path).read_bytes() == (plain / file.path).read_bytes()
        scan()
    scan()
    assert not folder.exists()
    assert text_of(sealed, manifest, "rank-0/rank.txt", keys) == (plain / "rank-0/rank.txt").read_text()


def test_nothing_stays_after_a_failure(sealed, keys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    manifest, before = Manifest.load(sealed), set(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), opened(sealed, manifest, manifest.files, keys):
        raise ZeroDivisionError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key", "sealed"]
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_wrong_key_is_told_at_once(sealed, tmp_path):
    with pytest.raises(PackageError, match="sealed was encrypted with another key: its key is"):
        decrypt(sealed, tmp_path / "back", Key(bytes(32)))
    assert not (tmp_path / "back").exists()


def test_a_changed_file_is_named(plain, sealed, keys, tmp_path):
    """Even where whoever changed it mended the manifest's sha256."""
    manifest, path = (
        Manifest.load(sealed),
        sealed / "rank-1" / weight_path(plain / "rank-1").relative_to(plain / "rank-1"),
    )
    data = bytearray(path.read_bytes())
    data[5000] ^= 4
    path.write_bytes(data)
    with pytest.raises(PackageError, match=r"rank-1/weights/\w+.bin was changed: its sha256"):
        decrypt(sealed, tmp_path / "back", KEY)
    with pytest.raises(PackageError, match=r"rank-1/weights/\w+.bin cannot be decrypted"):
        authenticate(sealed, manifest, keys)
    with (
        pytest.raises(PackageError, match=r"rank-1/weights/\w+.bin cannot be decrypted"),
        opened_rank(sealed, manifest, 1, keys),
    ):
        pass
    with opened_rank(sealed, manifest, 0, keys):
        pass


def test_a_changed_manifest_is_no_proof(sealed, tmp_path):
    text = (sealed / "manifest.json").read_text()
    (sealed / "manifest.json").write_text(text.replace('"context": 128', '"context": 64'))
    with pytest.raises(PackageError, match=r"manifest.json was changed after it was encrypted"):
        decrypt(sealed, tmp_path / "back", KEY)


@pytest.mark.parametrize("name", ["--key-file", "--key-command", "MPSPLIT_KEY", "MPSPLIT_KEY_COMMAND"])
def test_a_plain_package_does_not_pass_for_an_encrypted_one(plain, tmp_path, monkeypatch, name):
    """Wherever the key comes from, and whatever opens the package."""
    manifest = Manifest.load(plain)
    with opened_rank(plain, manifest, 0) as folder:
        assert folder == plain
    if not name.startswith("--"):
        monkeypatch.setenv(name, KEY.secret.hex())
    keys = {"--key-file": KeySource("key"), "--key-command": KeySource(None, "cat key")}.get(name, KeySource())
    told = f"a key is configured, and this package is not sealed; {plain} is plain, {name} names a key"
    for open_it in (
        lambda: opened_rank(plain, manifest, 0, keys).__enter__(),
        lambda: opened(plain, manifest, manifest.tokenizer, keys).__enter__(),
        lambda: text_of(plain, manifest, "rank-0/rank.txt", keys),
        lambda: authenticate(plain, manifest, keys),
    ):
        with pytest.raises(PackageError, match=told):
            open_it()
    if not name.startswith("--"):
        for open_it in (
            lambda: differences(plain, plain),
            lambda: repartition(plain, manifest.plan, tmp_path / "out", Alone(), None),
        ):
            with pytest.raises(PackageError, match=told):
                open_it()


def test_commands_refuse_a_plain_package_where_a_key_is_configured(plain):
    environment = CLEAN | {"MPSPLIT_KEY": KEY.secret.hex()}
    for command in (["run", plain, "--prompt-ids", "1"], ["inspect", plain], ["inspect", "--diff", plain, plain]):
        done = completed(*command, env=environment)
        assert done.returncode == 2 and "a key is configured, and this package is not sealed" in done.stderr, command
    assert "not sealed" not in completed("doctor", env=environment).stderr


def test_where_it_may_go(plain, sealed, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    inside = shutil.copytree(sealed, tmp_path / "copy")
    for work, package, out, told in [
        (encrypt, plain, plain, "is there already"),
        (encrypt, plain, tmp_path / "there", "is there already"),
        (decrypt, sealed, sealed, "is there already"),
        (decrypt, inside, inside / "rank-0" / "x", "lies in the package"),
        (encrypt, plain, tmp_path / "no" / "x", "there is no folder"),
        (encrypt, sealed, tmp_path / "x", "is encrypted already"),
        (decrypt, plain, tmp_path / "x", "is not encrypted"),
    ]:
        with pytest.raises(PackageError, match=told):
            work(package, out, KEY)
    monkeypatch.setattr(encryption.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(PackageError, match="has room for 1,000"):
        encrypt(plain, tmp_path / "x", KEY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "sealed", "there"]


def test_a_disk_that_fills_up_leaves_nothing(plain, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mpsplit.package.sealed.vault.SealedWriter._put", full)
    with pytest.raises(PackageError, match="cannot be written .No space left on device.; make room"):
        encrypt(plain, tmp_path / "x", KEY)
    assert not list(tmp_path.iterdir())
