"""A damaged graph or file of weights is refused: nothing outside of the file is ever read."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.package.stored.float_weights import ALIGNMENT, PackedFile
from mpsplit.package.stored.quantisation import QLinear
from mpsplit.package.stored.weight_files import LARGE_PAGE, Packed
from mpsplit.runtime.engine.quantised_layer import QLinearLayer

N, K, BITS, BLOCK = 17, 96, 6, 32
numbers = st.one_of(
    st.integers(-2, 400), st.sampled_from([N, K, BITS, BLOCK, 4, 8, 64, 128]), st.integers(-(2**31), 2**31 - 1)
)
bounded = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Params:
    """What ncnn hands to a layer."""

    def __init__(self, q: QLinear):
        self.values = list(vars(q).values())

    def get(self, index: int, default: int) -> int:
        return self.values[index]


@pytest.fixture
def whole(kernels, tmp_path):
    """(the file's bytes, the layer that lies in it, with something before it and its bias
    behind)"""
    path = tmp_path / "packed.bin"
    with PackedFile(path) as file:
        file.append(np.zeros(1, np.uint8))
        packed = kernels.pack(np.ones((N, K), np.float32), BITS, BLOCK)
        at, bias = file.append(packed), file.append(np.arange(N, dtype=np.float32))
    return np.memmap(path, np.uint8, "r"), QLinear(N, K, BITS, BLOCK, at, len(packed), bias)


def loads(file: np.ndarray, q: QLinear) -> bool:
    """Whether the layer takes it; if so, it computes with what lies in the file."""
    layer = QLinearLayer(Packed([range(len(file))], [file]), 1)
    if layer.load_param(Params(q)) != 0:
        return False
    layer.weights.unpack()
    begin = file.ctypes.data
    assert q.offset >= 0 and q.offset * ALIGNMENT + q.bytes <= len(file)
    if layer.bias is not None:
        assert len(layer.bias) == q.n and begin <= layer.bias.ctypes.data <= begin + len(file) - 4 * q.n
    return True


def test_the_whole_one_loads(whole):
    assert loads(*whole)


def test_what_lies_in_the_second_file_or_between_the_two(whole):
    file, q = whole
    spans = [range(len(file)), range(LARGE_PAGE * ALIGNMENT, LARGE_PAGE * ALIGNMENT + len(file))]
    packed = Packed(spans, [file, file])
    at = lambda place: QLinearLayer(packed, 1).load_param(Params(replace(q, offset=place + q.offset, bias=-1)))  # noqa: E731
    assert at(0) == at(LARGE_PAGE) == 0
    assert at(LARGE_PAGE - 2) == at(2 * LARGE_PAGE) == -1


@bounded
@given(field=st.sampled_from([field.name for field in fields(QLinear)]), value=numbers)
def test_one_damaged_number(whole, field, value):
    file, q = whole
    loads(file, replace(q, **{field: value}))


@bounded
@given(values=st.lists(numbers, min_size=7, max_size=7))
def test_numbers_of_any_kind(whole, values):
    loads(whole[0], QLinear(*values))


@bounded
@given(data=st.data())
def test_a_file_cut_short(whole, data):
    file, q = whole
    end = data.draw(st.integers(0, q.bias * ALIGNMENT + 4 * q.n))
    assert loads(file[:end], q) == (end == q.bias * ALIGNMENT + 4 * q.n)
