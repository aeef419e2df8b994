import json
import shutil

import pytest

from mpsplit.errors import PackageError
from mpsplit.package.manifest import FORMAT_VERSION, PARTITION, File, Manifest, Seal
from mpsplit.package.manifest_fields import check_manifest
from tests.packages import small_manifest, weight_path


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


CONFIG = File("config.json", 3, "0" * 64)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"config": CONFIG},
        {"sealed": Seal("AES-256-GCM", 1 << 20, "1" * 32, "2" * 32, "3" * 64)},
        {"repartitioned_from": "4" * 64},
    ],
)
def test_what_only_some_packages_have(more):
    data = json.loads(json.dumps(small_manifest(**more).to_json()))
    assert Manifest.from_json(data) == small_manifest(**more)
    assert set(data) == {*small_manifest().to_json(), *more}


def test_other_files_in_the_place_of_those_that_all_share():
    made = {"config.json": File("config.json", 4, "5" * 64), "a": File("a", 1, "6" * 64)}
    assert small_manifest(config=CONFIG).with_shared(made).shared == (made["config.json"],)
    assert small_manifest().with_shared(made).shared == ()


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "rank-0/model.param", "rank-0/rank.txt"])
def test_what_would_be_read_and_is_not_listed_is_refused(tmp_path, name):
    (tmp_path / "rank-0").mkdir()
    small_manifest().check_files(tmp_path, 0)
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(PackageError, match=f"{name} is not in the manifest; remove it"):
        small_manifest().check_files(tmp_path, 0)


def test_the_step_that_is_missing_is_named(tmp_path):
    for name, step in (("manifest.json", "convert"), (PARTITION, "partition MODEL --out")):
        with pytest.raises(PackageError, match=f"there is no {name} .* run `mpsplit {step} "):
            Manifest.load(tmp_path, name)


def test_a_manifest_that_contradicts_itself():
    right = json.loads(json.dumps(small_manifest().to_json()))
    check_manifest(right)
    rank, shards = right["ranks"][0], right["plan"]["shards"]
    for change, told in [
        ({"ranks": [rank, rank]}, "its plan has 1 shards, its list of ranks 2"),
        ({"ranks": [], "plan": right["plan"] | {"shards": []}}, "its plan has 0 shards, its list of ranks 0"),
        ({"plan": right["plan"] | {"shards": [*shards, *shards]}}, "its plan has 2 shards, its list of ranks 1"),
        ({"tokenizer": [vars(CONFIG), vars(CONFIG)]}, "a file is listed twice"),
        ({"ranks": [rank | {"files": [vars(CONFIG), vars(CONFIG)]}]}, "a file is listed twice"),
        ({"verified": []}, "it.verified is no object"),
    ]:
        with pytest.raises(PackageError, match=told):
            check_manifest(right | change)
