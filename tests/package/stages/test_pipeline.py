"""stages.json: there and back, and what may not stand in it."""

import json

import pytest

from mpsplit.errors import PackageError
from mpsplit.package.stages.image_settings import ImageSettings
from mpsplit.package.stages.pipeline import CAUSAL, FLOAT, STAGES, WHOLE, MadeValue, Pipeline, Stage, Value


def small() -> Pipeline:
    return Pipeline(
        values={"ids": Value(WHOLE, (1, "length")), "a": Value(FLOAT, (1, "length", 8)), "b": Value(FLOAT, (1, 4))},
        inputs=("ids",),
        outputs={"logits": "b"},
        stages=(
            Stage("embed", 0, ("ids",), ("a",), weights=4, bytes=16),
            Stage("head", 1, ("a",), ("b",), (MadeValue("causal", CAUSAL, FLOAT, ("length", "length")),), whole=("a",)),
        ),
        longest=32,
        labels=("cat", "dog"),
        images=ImageSettings(8, 8, 3, (9,), 2, 1 / 255, (0.5,) * 3, (0.5,) * 3),
    )


def test_there_and_back(tmp_path):
    small().save(tmp_path)
    assert Pipeline.load(tmp_path) == small()


def put(*keys):
    """Changes what stands at these keys to the last of them."""

    def change(data):
        for key in keys[:-2]:
            data = data[key]
        data[keys[-2]] = keys[-1]

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (put("stages", 1, "inputs", ["c"]), "stage head takes c, which no stage before it gives"),
        (put("stages", 0, "rank", 1), "its first stage must be of rank 0"),
        (put("stages", 1, "rank", 2), "stage head is of rank 2, after one of rank 0"),
        (put("stages", 1, "outputs", ["a"]), "a is given twice"),
        (put("outputs", {"logits": "c"}), "c has no shape"),
        (put("values", "a", "shape", [1, "length", "x"]), "no size"),
        (put("values", "a", "type", "object"), "one of float32, int64"),
        (put("stages", 0, "bytes", -1), "a whole number from 0"),
        (put("stages", 0, "name", "../up"), "a name"),
        (put("stages", 1, "made", 0, "kind", "code"), "one of causal, positions, table"),
        (put("images", "height", 0), "a whole number from 1"),
        (put("longest", "many"), "a whole number"),
    ],
)
def test_what_may_not_stand_there_is_refused_with_its_place(tmp_path, change, message):
    data = json.loads(json.dumps(small().to_json()))
    change(data)
    (tmp_path / STAGES).write_text(json.dumps(data))
    with pytest.raises(PackageError, match=message) as refused:
        Pipeline.load(tmp_path)
    assert "is damaged" in str(refused.value) and "\n" not in str(refused.value)
