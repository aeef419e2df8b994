"""Shards of random index lists in ncnn itself: rows have the bits of the whole, sums are close."""

from pathlib import Path

import ncnn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsplit.package.stages.sharded_part import PAIR, ZEROS, ShardedPart
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, indices_of, runs_of
from mpsplit.runtime.engine.stock_engine import exact, owned

FLAG = b"\0\0\0\0"
# ncnn's parameters of a matrix [n, k]; whether its bias has a flag; axis of the rows in a value
KINDS = {
    "Gemm": ("0=1.0 1=1.0 2=0 3=1 4=0 5=1 6=1 7=0 8={n} 9={k} 10=4", True, 1),
    "InnerProduct": ("0={n} 1=1 2={size}", False, 1),
    "InnerProduct of one row": ("0={n} 1=1 2={size}", False, 0),
    "Convolution": ("0={n} 1=1 2=1 3=1 4=0 5=1 6={size}", False, 0),
    "Convolution in steps": ("0={n} 1=1 2=1 3=2 4=0 5=1 6={size}", False, 0),
}


def computed(folder: Path, kind: str, weight: np.ndarray, bias: np.ndarray, x: np.ndarray, threads: int) -> np.ndarray:
    n, k = weight.shape
    params, flagged, _ = KINDS[kind]
    text = f"7767517\n2 2\nInput in0 0 1 in0\n{kind.split()[0]} linear 1 1 in0 out0 "
    (folder / "net.param").write_text(text + params.format(n=n, k=k, size=n * k) + "\n")
    (folder / "net.bin").write_bytes(FLAG + weight.tobytes() + FLAG * flagged + bias.tobytes())
    net = ncnn.Net()
    exact(net.opt, threads)
    assert net.load_param(str(folder / "net.param")) == 0 and net.load_model(str(folder / "net.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("in0", owned(x))
    status, mat = extractor.extract("out0")
    assert status == 0
    return np.array(mat)


def input_of(kind: str, k: int, length: int, chance: np.random.Generator) -> np.ndarray:
    shapes = {"Gemm": (length, k), "InnerProduct": (length, k), "InnerProduct of one row": (k,)}
    return chance.standard_normal(shapes.get(kind, (k, length, 3)), np.float32)


def part_of(cut: str, size: int, count: int, axis: int, chance: np.random.Generator) -> ShardedPart:
    """Lists of any lengths, not one run each."""
    owner = chance.integers(0, count, size)
    lists = [indices for shard in range(count) if len(indices := np.flatnonzero(owner == shard))]
    ranks = tuple(range(len(lists)))
    shards = tuple(map(runs_of, lists))
    return ShardedPart(("m",), cut, "x", "y", axis, ranks, shards, (0,) * len(ranks), 0, (0,) * len(ranks)).check("s")


def rows_at(array: np.ndarray, places: np.ndarray) -> np.ndarray:
    rows = array[np.maximum(places, 0)]
    rows[places == ZEROS] = 0
    return rows


CASES = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.seconds(120)
@pytest.mark.parametrize("kind", KINDS)
@CASES
@given(n=st.integers(1, 260), k=st.integers(1, 200), length=st.integers(1, 40), count=st.integers(1, 4),
       threads=st.integers(1, 2), seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_rows_have_the_bits_of_the_whole(tmp_path, kind, n, k, length, count, threads, seed):
    chance, axis = np.random.default_rng(seed), KINDS[kind][2]
    weight, bias = chance.standard_normal((n, k), np.float32), chance.standard_normal(n, np.float32)
    x, part = input_of(kind, k, length, chance), part_of(ROWS, n, count, axis, chance)
    wanted = computed(tmp_path, kind, weight, bias, x, threads)
    pieces = []
    for shard, places in enumerate(part.places):
        rows, numbers = rows_at(weight, places), rows_at(bias, places)
        pieces.append(part.without_zeros(shard, computed(tmp_path, kind, rows, numbers, x, 1)))
        assert pieces[-1].shape[axis] == len(indices_of(part.shards[shard]))
    assert part.together(pieces, wanted.shape).tobytes() == wanted.tobytes()


@pytest.mark.seconds(120)
@pytest.mark.parametrize("kind", KINDS)
@CASES
@given(n=st.integers(1, 80), k=st.integers(1, 200), length=st.integers(1, 40), count=st.integers(1, 4),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_columns_add_up(tmp_path, kind, n, k, length, count, seed):
    chance, axis = np.random.default_rng(seed), KINDS[kind][2]
    weight, bias = chance.standard_normal((n, k), np.float32), chance.standard_normal(n, np.float32)
    x, part = input_of(kind, k, length, chance), part_of(COLUMNS, k, count, axis, chance)
    wanted = computed(tmp_path, kind, weight, bias, x, 1)
    pieces = []
    for shard, runs in enumerate(part.shards):
        columns = np.ascontiguousarray(weight[:, indices_of(runs)])
        pieces.append(computed(tmp_path, kind, columns, bias * (shard == 0), part.for_shard(shard, x), 1))
    np.testing.assert_allclose(part.together(pieces, wanted.shape), wanted, atol=1e-5 * k)


def test_what_lies_between_a_pair_is_never_cut():
    part = part_of(PAIR, 40, 3, 1, np.random.default_rng(0))
    x = np.ones((2, 8), np.float32)
    assert part.for_shard(1, x) is x and part.without_zeros(1, x) is x
    assert part.computed(1, ("length", 8)) == part.taken(1, ("length", 8)) == ("length", 8)
