import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.plan.steps import divide, divide_heads, even, steps_of
from tests.layouts import models
from tests.models import facts

speeds = st.lists(st.sampled_from([0.5, 1, 1.5, 2, 3, 10]), min_size=1, max_size=4)


@given(st.integers(0, 9), st.integers(1, 5), speeds)
def test_no_other_way_to_divide_is_done_earlier(count, step, speeds):
    given = divide(count * step, step, speeds)
    assert sum(given) == count * step and all(n >= 0 and n % step == 0 for n in given)
    ways = (way for way in itertools.product(range(count + 1), repeat=len(speeds)) if sum(way) == count)
    earliest = min(max(n / speed for n, speed in zip(way, speeds, strict=True)) for way in ways)
    assert max(n / step / speed for n, speed in zip(given, speeds, strict=True)) == pytest.approx(earliest)


@given(st.integers(0, 300), st.integers(1, 40), speeds)
def test_only_one_step_is_short(whole, step, speeds):
    given = divide(whole, step, speeds)
    assert sum(given) == whole and sum(n % step != 0 for n in given) <= 1


def test_who_is_too_slow_gets_nothing():
    assert divide(4, 1, [1, 100]) == [0, 4]
    assert divide(100, 32, [1, 0]) == [100, 0]


@given(models(), st.integers(1, 9), st.sampled_from([1, 8, 32]))
def test_equal_ranks_all_get_work_where_there_is_enough(f, ranks, block):
    steps, alike = steps_of(f, ranks, block), [1.0] * ranks
    for whole, step in ((f.mlp, steps.mlp), (f.vocabulary, steps.vocabulary)):
        assert all(divide(whole, step, alike)) or whole < ranks
    heads = divide_heads(f, steps, alike)
    assert sum(heads) == f.heads and (all(heads) or f.heads < f.kv_heads * max(steps.dealt, default=0))


@pytest.mark.parametrize(
    "changes, ranks, heads, mlp, vocabulary, dealt",
    [
        ({}, 3, 2, 32, 32, ()),  # whole KV heads of 2 query heads
        ({}, 4, 2, 1, 32, ()),  # 96 columns are 3 blocks: the fourth rank would have none
        ({}, 5, 1, 1, 1, (2, 1, 1, 1)),  # the first KV head is dealt to two ranks
        (dict(heads=32, kv_heads=2, head_dim=8), 4, 8, 1, 32, (2, 2)),  # each rank half of the 16
        (dict(heads=32, kv_heads=2, head_dim=8), 6, 4, 1, 1, (3, 3)),  # 4 heads of 8 make a block
        # 12 // 2 leave five ranks one each, no blocks
        (dict(heads=24, kv_heads=2, head_dim=8), 10, 2, 1, 1, (5, 5)),
        # 10 // 3 leave three ranks one each, and the last is not short of the others
        (dict(heads=20, kv_heads=2, head_dim=8), 6, 2, 1, 1, (3, 3)),
        (dict(heads=12, kv_heads=2, head_dim=8), 4, 3, 1, 32, (2, 2)),  # an odd step of an even number
        (dict(heads=24, kv_heads=2, head_dim=8), 4, 4, 1, 32, (2, 2)),  # 6 would do, and 4 make a block
        (dict(heads=4, kv_heads=2, head_dim=8), 6, 1, 1, 1, (3, 3)),  # fewer heads than ranks
    ],
)
def test_steps(changes, ranks, heads, mlp, vocabulary, dealt):
    steps = steps_of(facts(**changes), ranks)
    assert (steps.heads, steps.mlp, steps.vocabulary, steps.dealt) == (heads, mlp, vocabulary, dealt)


@given(models(), st.integers(1, 6), st.sampled_from([2, 8, 32]))
def test_blocks_that_are_kept_stay_whole(f, ranks, block):
    steps, alike = steps_of(f, ranks, block, whole_blocks=True), [1.0] * ranks
    heads, mlp = divide_heads(f, steps, alike), divide(f.mlp, steps.mlp, alike)
    for counts, whole, inputs in ((heads, f.heads, f.head_dim), (mlp, f.mlp, 1)):
        assert sum(counts) == whole
        assert all(at * inputs % block == 0 for at in itertools.accumulate(counts) if at < whole)


@pytest.mark.parametrize(
    "changes, ranks, heads, dealt",
    [
        (dict(heads=32, kv_heads=4, head_dim=64), 4, 8, ()),  # 512 inputs of a KV head
        (dict(heads=32, kv_heads=16, head_dim=64), 4, 4, ()),  # two KV heads make a block
        (dict(heads=32, kv_heads=4, head_dim=64), 8, 4, (2, 2, 2, 2)),
        (dict(heads=32, kv_heads=4, head_dim=64), 16, 8, ()),  # a quarter of a KV head is half a block
    ],
)
def test_steps_of_blocks_of_256(changes, ranks, heads, dealt):
    steps = steps_of(facts(mlp=5632, **changes), ranks, 256, whole_blocks=True)
    assert (steps.heads, steps.mlp, steps.dealt) == (heads, 256, dealt)


def test_dealt_heads_stay_with_their_kv_head():
    f = facts(heads=12, kv_heads=2)
    steps = steps_of(f, 5)
    assert steps.dealt == (3, 2) and steps.heads == 2
    assert divide_heads(f, steps, [1, 1, 1, 1, 1]) == [2, 2, 2, 4, 2]
    assert divide_heads(f, steps, [1, 1, 8, 1, 2]) == [0, 0, 6, 2, 4]


def test_even():
    assert even(7, 3) == [3, 2, 2] and even(2, 3) == [1, 1, 0]
