"""The space of offsets in which a rank's packed files lie."""

import pytest

from mpsplit.errors import PackageError
from mpsplit.package.stored.float_weights import ALIGNMENT
from mpsplit.package.stored.quantisation import KINDS, QLinear
from mpsplit.package.stored.weight_files import LARGE_PAGE, PackedPlaces, WeightFiles, inside

FILES = WeightFiles("weights/floats.bin", None, ((0, "weights/a.bin"), (LARGE_PAGE, "weights/b.bin")))


def made(folder, *sizes):
    (folder / "weights").mkdir()
    for (_, name), size in zip(FILES.packed, sizes, strict=False):
        (folder / name).write_bytes(bytes(size))
    return folder


def test_matrices_follow_each_other_and_a_new_group_begins_a_file():
    places, linear = PackedPlaces(), QLinear(16, 64, KINDS["q8"], 32, 0, 0, 1)
    first, second, third = (places.place(linear, group) for group in ("layer 0", "layer 0", "layer 1"))
    units = -(-linear.bytes // ALIGNMENT)
    assert (first.offset, first.bias, second.offset) == (0, units, units + 1)  # a bias of 64 bytes
    assert (third.offset, third.bias) == (LARGE_PAGE, LARGE_PAGE + units)


def test_a_matrix_is_found_where_all_its_bytes_are_in_one_file(tmp_path):
    spans = FILES.spans(made(tmp_path, 3 * ALIGNMENT, ALIGNMENT))
    found = [inside(spans, *where) for where in ((0, 3 * ALIGNMENT), (1, 2 * ALIGNMENT), (LARGE_PAGE, ALIGNMENT))]
    assert found == [0, 0, 1]
    for where in ((0, 3 * ALIGNMENT + 1), (3, 1), (LARGE_PAGE, ALIGNMENT + 1), (0, -1), (2 * LARGE_PAGE, 0)):
        assert inside(spans, *where) is None


def test_files_that_are_not_as_they_should_be(tmp_path):
    with pytest.raises(PackageError, match=r"weights/b\.bin is missing; "):
        FILES.spans(made(tmp_path, ALIGNMENT))
    (tmp_path / "weights" / "b.bin").write_bytes(b"")
    (tmp_path / "weights" / "a.bin").write_bytes(bytes(LARGE_PAGE * ALIGNMENT))
    assert FILES.spans(tmp_path)[0].stop == FILES.spans(tmp_path)[1].start
    (tmp_path / "weights" / "a.bin").write_bytes(bytes(LARGE_PAGE * ALIGNMENT + 1))
    with pytest.raises(PackageError, match=rf"{tmp_path}/weights/a\.bin reaches into the next file"):
        FILES.spans(tmp_path)
