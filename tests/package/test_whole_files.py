import pytest

from mpsplit.errors import PackageError
from mpsplit.package.whole_files import beside, forget_unfinished, read_json, write_json


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), beside(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(path, "") == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_damaged_json_say_what_to_do(tmp_path):
    with pytest.raises(PackageError, match="there is no x.json .*; do this"):
        read_json(tmp_path / "x.json", "do this")
    (tmp_path / "x.json").write_text('{"a"')
    with pytest.raises(PackageError, match="is damaged .*; do this"):
        read_json(tmp_path / "x.json", "do this")


def test_what_a_killed_process_left_is_forgotten(tmp_path):
    kept = {"x.json", ".x.json.partial", "x.json.1.partial"}
    for name in (*kept, ".x.json.4711.partial"):
        (tmp_path / name).touch()
    forget_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
