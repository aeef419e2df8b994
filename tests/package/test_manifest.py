import json
import shutil

import pytest

from mpsplit.errors import PackageError
from mpsplit.package.manifest import FORMAT_VERSION, Manifest
from tests.packages import weight_path


@pytest.fixture
def package(package_of, tmp_path):
    return shutil.copytree(package_of("llama", 2, 1), tmp_path / "package")


def test_round_trip(package):
    manifest = Manifest.load(package)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    for rank in range(2):
        manifest.check_files(package, rank)


def test_a_changed_byte_is_found(package):
    path = weight_path(package / "rank-1")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    manifest = Manifest.load(package)
    manifest.check_files(package, 0)
    with pytest.raises(PackageError, match=r"rank-1/weights/\w+.bin was changed: its sha256 differs"):
        manifest.check_files(package, 1)


def test_a_file_cut_short_is_found(package):
    path = weight_path(package / "rank-0")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(PackageError, match=rf"has {size - 7} bytes, the manifest says {size}"):
        Manifest.load(package).check_files(package, 0)


def test_a_missing_file_is_found(package):
    (package / "rank-0" / "model.param").unlink()
    with pytest.raises(PackageError, match="model.param is missing"):
        Manifest.load(package).check_files(package, 0)


@pytest.mark.parametrize(
    "version, remedy", [(FORMAT_VERSION + 1, "update mpsplit"), (FORMAT_VERSION - 1, "partition and convert again")]
)
def test_other_format_versions_are_refused(package, version, remedy):
    data = json.loads((package / "manifest.json").read_text()) | {"format_version": version}
    (package / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(PackageError, match=f"format version {version}, this mpsplit reads {FORMAT_VERSION}; {remedy}"):
        Manifest.load(package)


def test_a_folder_that_is_no_package(package, tmp_path):
    with pytest.raises(PackageError, match="there is no package at .*nowhere"):
        Manifest.load(tmp_path / "nowhere")
    (package / "manifest.json").unlink()
    with pytest.raises(PackageError, match="there is no manifest.json .* run `mpsplit convert"):
        Manifest.load(package)
