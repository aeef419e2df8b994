"""Kinds of JSON: both ends of each bound, and what is said of a value that is wrong."""

import math

import pytest

from mpsplit.errors import PackageError
from mpsplit.package.json_fields import flag, many, mapping, number, one_of, record, text, whole

WORD = text("[a-z]{1,3}", "a short word")
POINT = record({"x": whole(0, 9)}, {"name": WORD})


@pytest.mark.parametrize(
    "kind, right",
    [
        (whole(2, 5), [2, 5]),
        (number(1.5), [-1.5, 1.5, 0, 1]),
        (flag, [True, False]),
        (WORD, ["a", "abc"]),
        (one_of(["a", "b"]), ["a", "b"]),
        (many(flag, 2), [[], [True, False]]),
        (mapping(flag, 2), [{}, {"a": True, "b": False}]),
        (POINT, [{"x": 0}, {"x": 9, "name": "abc"}, {"x": 1, "newer": "?"}]),
    ],
)
def test_what_may_stand_there(kind, right):
    for value in right:
        assert kind(value, "it") is None


@pytest.mark.parametrize(
    "kind, value, told",
    [
        (whole(2, 5), 1, "it is 1, it must be a whole number from 2 to 5"),
        (whole(2, 5), 6, "it is 6, it must be a whole number from 2 to 5"),
        (whole(0, 5), True, "it is True, it must be a whole number from 0 to 5"),
        (whole(0, 5), 1.0, "it is 1.0, it must be a whole number from 0 to 5"),
        (number(1.5), 1.51, "it is 1.51, it must be a number of at most 1.5"),
        (number(1.5), -1.51, "it is -1.51, it must be a number of at most 1.5"),
        (number(1.5), math.nan, "it is nan, it must be a number of at most 1.5"),
        (number(1.5), False, "it is False, it must be a number of at most 1.5"),
        (flag, 1, "it is 1, it must be true or false"),
        (WORD, "abcd", "it is 'abcd', it must be a short word"),
        (WORD, "", "it is '', it must be a short word"),
        (WORD, "\u00e9" * 99, "it is " + ("'" + r"\xe9" * 99)[:40] + ", it must be a short word"),
        (WORD, ["a"], "it is list, it must be a short word"),
        (one_of(["a", "b"]), "c", "it is 'c', it must be one of a, b"),
        (one_of(["a", "b"]), {}, "it is dict, it must be one of a, b"),
        (many(flag, 2), [True] * 3, "it is list, it must be a list of at most 2"),
        (many(flag, 2), {}, "it is dict, it must be a list of at most 2"),
        (many(flag, 2), [True, None], "it[1] is None, it must be true or false"),
        (mapping(flag, 2), dict.fromkeys("abc", True), "it is dict, it must be an object of at most 2"),
        (mapping(flag, 2), [], "it is list, it must be an object of at most 2"),
        (mapping(flag, 2), {"\n" + "a" * 50: 0}, r"it.\n" + "a" * 38 + " is 0, it must be true or false"),
        (POINT, [], "it is list, it must be an object"),
        (POINT, {"name": "a"}, "it has no x"),
        (POINT, {"x": 10}, "it.x is 10, it must be a whole number from 0 to 9"),
        (POINT, {"x": 1, "name": 2}, "it.name is 2, it must be a short word"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(kind, value, told):
    with pytest.raises(PackageError) as wrong:
        kind(value, "it")
    assert str(wrong.value) == told
