"""Shapes whose length may grow."""

import pytest

from mpsplit.errors import PackageError, RunError
from mpsplit.package.stages.growing_shapes import length_of, numbers, size_kind


@pytest.mark.parametrize("size, value", [(7, 7), ("length", 5), ("4*length", 20), ("length-1", 4), ("2*length+3", 13)])
def test_a_size_at_a_length(size, value):
    size_kind(size, "it")
    assert numbers((1, size), 5) == (1, value)


@pytest.mark.parametrize("size", ["length//2", "exit()", "length*2", -1, 1.5, True, 1 << 40, "9999999*length"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(PackageError, match="it is no size"):
        size_kind(size, "it")


SHAPES = {"ids": (1, "length"), "types": (1, "length")}


def test_the_length_is_that_of_the_arrays():
    assert length_of(SHAPES, {"ids": (1, 9), "types": (1, 9)}, 12) == 9
    assert length_of({"x": (1, 3)}, {"x": (1, 3)}, 0) == 1


@pytest.mark.parametrize(
    "ids, types, message",
    [
        ((1, 9), (1, 8), r"types has shape \[1, 8\], the model takes \[1, length\]"),
        ((9,), (1, 9), r"ids has shape \[9\], the model takes \[1, length\]"),
        ((1, 13), (1, 13), "has a length of 13, the model has room for 1 to 12"),
        ((1, 0), (1, 0), "has a length of 0, the model has room for 1 to 12"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_both_shapes(ids, types, message):
    with pytest.raises(RunError, match=message):
        length_of(SHAPES, {"ids": ids, "types": types}, 12)
