"""Index lists: what a user may say, and that each index is in one shard, once."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import PlanError
from mpsplit.plan.stages.index_lists import (
    COLUMNS,
    ROWS,
    Cut,
    check_lists,
    cuts_of,
    indices_of,
    members,
    runs_of,
    size_of,
    wishes_of,
)

LINEARS = {"net.layer.0.fc1": (192, 48), "net.layer.0.fc2": (48, 192), "net.layer.1.fc1": (192, 48), "head": (3, 48)}
MODULES = (*LINEARS, "net.layer.0.norm", "net.act")


def cut(*said: str) -> dict[str, Cut]:
    return cuts_of(wishes_of(said), LINEARS, MODULES)


def file_of(tmp_path, data) -> str:
    path = tmp_path / "shards.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def test_a_pattern_is_a_path_or_its_last_parts():
    assert list(cut("fc1=rows:3")) == ["net.layer.0.fc1", "net.layer.1.fc1"]
    assert list(cut("layer.*.fc2=columns:2", "head=rows:1")) == ["net.layer.0.fc2", "head"]
    assert cut("net.*=rows:2").keys() == LINEARS.keys() - {"head"}


def test_equal_parts_end_at_blocks_of_weights_where_there_are_enough():
    cuts = cut("fc1=rows:3", "fc2=columns:4")
    assert cuts["net.layer.1.fc1"] == Cut(ROWS, ((0, 63), (64, 127), (128, 191)), "--shards fc1=rows:3")
    assert cuts["net.layer.0.fc2"].along == COLUMNS
    assert [size_of(runs) for runs in cuts["net.layer.0.fc2"].shards] == [48] * 4
    equal = wishes_of(["x=rows:5"])[0].runs(3072, "x")
    assert [size_of(runs) for runs in equal] == [608, 608, 640, 608, 608] and all(runs[0] % 32 == 0 for runs in equal)
    assert [size_of(runs) for runs in cut("head=rows:2")["head"].shards] == [2, 1]


def test_a_file_has_lists_of_numbers_and_runs(tmp_path):
    lists = [["0-99", 150], ["100-149", "151-190"], [191]]
    cuts = cut(file_of(tmp_path, {"layer.*.fc1": {"rows": lists}, "head": {"columns": 2}}))
    assert cuts["net.layer.0.fc1"].shards == ((0, 99, 150, 150), (100, 149, 151, 190), (191, 191))
    assert cuts["head"].shards == ((0, 23), (24, 47))


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_any_partition_passes_and_comes_back_from_its_runs(size, seed, count):
    chance = np.random.default_rng(seed)
    owner = chance.integers(0, count, size)
    lists = [chance.permutation(np.flatnonzero(owner == shard)) for shard in range(count)]
    lists = [indices for indices in lists if len(indices)]
    check_lists(lists, size, "it", ROWS)
    for indices in lists:
        runs = runs_of(indices)
        np.testing.assert_array_equal(indices_of(runs), np.sort(indices))
        assert size_of(runs) == len(indices) and list(runs) == sorted(runs)


@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.sampled_from(["hole", "twice", "outside"]))
def test_what_is_no_partition_never_passes(size, seed, kind):
    chance = np.random.default_rng(seed)
    order = chance.permutation(size)
    at = int(chance.integers(1, size))
    wrong = {"hole": order[1:], "twice": np.r_[order, order[:1]], "outside": np.r_[order, size]}[kind]
    with pytest.raises(PlanError):
        check_lists([wrong[:at], wrong[at:]], size, "it", ROWS)


@pytest.mark.parametrize(
    "lists, message",
    [
        ([[0, 1], [2]], r"head has 1 of its 4 rows in no shard, such as 3; give each to a shard"),
        ([[0, 1, 2], ["1-3"]], r"head has 2 of its 4 rows more than once, such as 1 in shard 0 and 1; give each to"),
        ([["0-3"], [4]], r"head has rows 0 to 3, and 1 indices are none of them, such as 4; leave them out"),
        ([["0-3"], [-1]], r"head has rows 0 to 3, and 1 indices are none of them, such as -1"),
        ([["0-3"], []], r"head has 4 rows, and shard 1 has none of them; give it some, or fewer shards"),
        ([["0-3"], [1.5]], r"shard 1 has '1.5', which is no index and no run such as \"2-9\"; write whole numbers"),
        ([["3-0"]], r"shard 0 has '3-0', which is no index"),
        ([[True]], r"shard 0 has 'True', which is no index"),
        ([0, 1], r"rows must be a number of shards, or a list of lists"),
        (0, r"rows must be a number of shards, or a list of lists"),
    ],
)
def test_lists_that_are_wrong_are_refused_with_numbers(tmp_path, lists, message):
    path = file_of(tmp_path, {"head": {"rows": lists}})
    with pytest.raises(PlanError, match=message) as refused:
        cuts_of(wishes_of([path]), {"head": (4, 9)}, ["head"])
    assert "\n" not in str(refused.value) and path in str(refused.value)


@pytest.mark.parametrize(
    "said, message",
    [
        (
            "fc3=rows:2",
            r"--shards fc3=rows:2: none of 6 modules has such a path; name some of 4 that can be divided: net",
        ),
        ("norm=rows:2", r"net.layer.0.norm is no linear and no 1x1 convolution; name some of 4"),
        ("head=rows:4", r"head has 3 rows, and shard \d has none of them"),
        ("head=rows:0", r"--shards head=rows:0 is not understood; give PATTERN=rows:N"),
        ("head", r"--shards head is not understood"),
        ("none.json", r"--shards none.json cannot be read as JSON"),
    ],
)
def test_wishes_that_are_wrong_are_refused(said, message):
    with pytest.raises(PlanError, match=message) as refused:
        cut(said)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "data", ["[]", "{}", '{"head": 3}', '{"head": {"rows": 1, "columns": 1}}', '{"head": {"x": 1}}']
)
def test_files_that_are_wrong_are_refused(tmp_path, data):
    with pytest.raises(PlanError, match="names no module|must have"):
        cut(file_of(tmp_path, data))


def test_a_linear_is_divided_once():
    with pytest.raises(PlanError, match=r"head is divided twice, by --shards head=rows:2 and --shards he\*=columns:2"):
        cut("head=rows:2", "he*=columns:2")


def test_shards_are_on_the_stages_rank_and_those_after_it():
    cuts = cut("fc1=rows:3")["net.layer.0.fc1"]
    assert [members(lead, cuts, 4, "fc1") for lead in range(4)] == [(0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3)]
    with pytest.raises(PlanError, match=r"fc1 has 3 shards, there are 2 ranks; use `mpirun -np 3`, or 2 shards"):
        members(0, cuts, 2, "fc1")
