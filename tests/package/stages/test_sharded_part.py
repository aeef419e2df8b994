"""How a part is cut and put together, and what stages.json may say of one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import PackageError
from mpsplit.package.stages.pipeline import FLOAT, STAGES, Pipeline, Shard, Stage, Value
from mpsplit.package.stages.sharded_part import GROUP, PAIR, ZEROS, ShardedPart, laid_out
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS


def part(cut: str = ROWS, **changes) -> ShardedPart:
    given = dict(modules=("fc1",), cut=cut, takes="x", gives="y", axis=2, ranks=(0, 1), shards=((0, 2, 5, 5), (3, 4)),
                 bytes=(8, 4), flops=9, whole=(0, 1))  # fmt: skip
    return ShardedPart(**given | changes)


def small(of: ShardedPart) -> Pipeline:
    sizes = (6, 4) if of.cut == COLUMNS else (4, 6)
    values = {name: Value(FLOAT, (1, "length", size)) for name, size in zip("xy", sizes, strict=True)}
    values["out"] = values["y"]
    stage = Stage("mlp", 0, ("x",), ("out",), parts=(of,), graph_inputs=("y",), graph_outputs=("out",))
    return Pipeline(values, ("x",), {"out": "out"}, (stage,), 32)


@pytest.mark.parametrize("cut", [ROWS, COLUMNS])
def test_there_and_back(tmp_path, cut):
    small(part(cut)).check().save(tmp_path)
    assert Pipeline.load(tmp_path) == small(part(cut))


def test_shapes_and_bytes_of_shards():
    rows, columns = small(part()), small(part(COLUMNS))
    assert part().taken(0, (1, "length", 4)) == (1, "length", 4) and part().given(0, (1, "length", 6))[-1] == 4
    assert part(COLUMNS).taken(1, (1, "length", 6))[-1] == 2 and part(COLUMNS).given(1, (1, 9, 4)) == (1, 9, 4)
    assert part().traffic(rows.shapes, 0, 10) == 4 * 10 * (4 + 2) == part(COLUMNS).traffic(columns.shapes, 0, 10)
    alone = rows.of_shard(Shard(0, 0, 1))
    assert alone.stages[0].whole == ("x",) and alone.values["y"].shape[-1] == 6  # fewer than a group
    assert str(part(PAIR)) == "fc1: 4 + 2 rows, then columns on ranks 0, 1"


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_rows_stand_in_groups_as_they_did_in_the_whole(size, seed):
    chance = np.random.default_rng(seed)
    indices = np.flatnonzero(chance.integers(0, 2, size))
    places = laid_out(indices, size)
    np.testing.assert_array_equal(places[places != ZEROS], indices)
    left_over = size % GROUP
    assert len(places) % GROUP == left_over and len(places) <= len(indices) + 2 * GROUP
    for place, index in enumerate(places):
        if index != ZEROS:  # the same place in a tail, or in no tail
            from_end = len(places) - place
            assert (from_end == size - index) if index >= size - left_over else from_end > left_over


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shards": [[0, 2], [3, 4]]}, "y is \\[1, length, 6\\] float32, its shards have 5 of it"),
        ({"shards": [[0, 2, 5, 5], [4, 4]]}, "has 1 of its 5 rows|such as 5"),
        ({"shards": [[0, 2, 5, 5], [2, 4]]}, "more than once|none of them"),
        ({"shards": [[0, 2, 5], [3, 4]]}, "has a shard whose runs do not end"),
        ({"shards": [[0, 2, 5, 5], [4, 3]]}, "has a shard whose runs do not end"),
        ({"shards": [[0, 1 << 24], [3, 4]]}, "has 16,777,219 indices"),
        ({"shards": []}, "has 0 shards"),
        ({"ranks": [0, 0]}, "has 2 shards on ranks \\[0, 0\\]"),
        ({"ranks": [0]}, "has 2 shards on ranks \\[0\\]"),
        ({"whole": [0]}, "has 2 shards"),
        ({"ranks": [0, 5]}, "rank 1 has neither a stage nor a shard"),
        ({"takes": "z"}, "takes z, which is not there"),
        ({"gives": "x"}, "takes x, which is not there"),
        ({"axis": 3}, "y is no value that can be cut along 3|x is no value"),
        ({"cut": "halves"}, "it must be one of rows, columns, pair"),
        ({"axis": -1}, "a whole number from 0 to 7"),
    ],
)
def test_what_may_not_stand_there_is_refused(tmp_path, change, message):
    data = json.loads(json.dumps(small(part()).to_json()))
    data["stages"][0]["parts"][0] |= change
    (tmp_path / STAGES).write_text(json.dumps(data))
    with pytest.raises(PackageError, match=message) as refused:
        Pipeline.load(tmp_path)
    assert "is damaged" in str(refused.value) and "\n" not in str(refused.value)
