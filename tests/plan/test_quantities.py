import pytest

from mpsplit.errors import PlanError
from mpsplit.plan.quantities import bytes_per_second, flop_per_second, memory_bytes, seconds, several


@pytest.mark.parametrize(
    "parse, word, value",
    [
        (memory_bytes, "4G", 4 << 30), (memory_bytes, "512MiB", 512 << 20),
        (memory_bytes, "1.5g", 3 << 29), (memory_bytes, "1000", 1000),
        (memory_bytes, "3K", 3072), (memory_bytes, "2T", 2 << 40),
        (flop_per_second, "100G", 1e11), (flop_per_second, "1.5T", 1.5e12), (flop_per_second, "7", 7),
        (seconds, "9ns", 9e-9),
        (bytes_per_second, "117MB/s", 117e6), (bytes_per_second, "20GB", 20e9), (bytes_per_second, "15e9", 15e9),
        (seconds, "100us", 1e-4), (seconds, "1ms", 1e-3), (seconds, "0.5", 0.5), (seconds, "25e-6", 25e-6),
    ],
)  # fmt: skip
def test_quantities(parse, word, value):
    assert parse(word) == pytest.approx(value)
    assert several(f"{word}, {word}", parse) == [pytest.approx(value)] * 2


@pytest.mark.parametrize(
    "parse, word",
    [
        (memory_bytes, "4X"),
        (memory_bytes, "-4G"),
        (memory_bytes, ""),
        (memory_bytes, "0G"),
        (seconds, "fast"),
        (bytes_per_second, "1/s"),
        (flop_per_second, "1G/s"),
    ],
)
def test_what_is_no_quantity(parse, word):
    with pytest.raises(PlanError, match="is not"):
        parse(word)
