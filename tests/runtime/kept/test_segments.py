"""Segments of texts that grow, turn elsewhere and shrink, without a disk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.runtime.engine.pages import PAGE, common
from mpsplit.runtime.kept.segments import MOST, Segment, check, staying, tokens_sha256, wanted

TEXTS = st.lists(st.tuples(st.integers(1, 3 * PAGE), st.integers(0, 5 * PAGE)), min_size=1, max_size=40)


def grown(before, segments, tokens, name):
    stay, first = staying(segments, common(before, tokens), len(tokens)) if segments else ((), 0)
    return (*stay, Segment(f"{name:032x}", first, len(tokens), tokens_sha256(tokens)))


@given(TEXTS)
def test_what_is_loaded_is_the_text(changes):
    """Each change leaves so many tokens off and puts new ones behind; files hold what the text was
    when they were written."""
    tokens, segments, files = [], (), {}
    for number, (new, off) in enumerate(changes):
        changed = tokens[: max(0, len(tokens) - off)] + [number * 1000 + i for i in range(new)]
        segments = grown(tokens, segments, changed, number)
        tokens = changed
        files[segments[-1].save] = tokens[segments[-1].first :]
        check(segments, tokens)
        assert 1 <= len(segments) <= MOST
        for wish in (1, len(tokens) // 2 + 1, len(tokens)):
            loaded = {}
            for kept in wanted(segments, "w" * 64, wish):
                assert kept.first % PAGE == 0 and kept.identity == "w" * 64 + kept.identity[64:128] + kept.save
                loaded.update(enumerate(files[kept.save][: kept.until - kept.first], kept.first))
            assert [loaded[i] for i in range(wish)] == tokens[:wish]


def test_a_text_that_goes_on_writes_its_last_page_and_what_follows():
    tokens = list(range(100))
    one = grown([], (), tokens[:70], 1)
    two = grown(tokens[:70], one, tokens, 2)
    assert [(segment.first, segment.last) for segment in two] == [(0, 70), (64, 100)]
    assert wanted(two, "", 64)[0].until == 64 and len(wanted(two, "", 64)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"first": 1},
        {"first": -32},
        {"first": 0.0},
        {"last": 39},
        {"last": 41},
        {"bytes": -1},
        {"save": "x" * 32},
        {"save": "../" + "0" * 29},
        {"save": "0" * 31},
        {"tokens_sha256": "0" * 64},
    ],
)
def test_what_is_no_segment(fields):
    tokens = list(range(40))
    good = Segment("0" * 32, 0, 40, tokens_sha256(tokens), 7)
    check([good], tokens)
    with pytest.raises(ValueError):
        check([Segment(**good.to_json() | fields)], tokens)


@pytest.mark.parametrize("last, first", [(PAGE, PAGE - 1), (PAGE - 1, PAGE), (PAGE, 0), (PAGE, 2 * PAGE)])
def test_segments_that_do_not_follow_each_other(last, first):
    """Within a page, with a hole, over one another, and beyond the end."""
    tokens = list(range(2 * PAGE))

    def two(last, first):
        return [
            Segment("0" * 32, 0, last, tokens_sha256(tokens[:last])),
            Segment("1" * 32, first, 2 * PAGE, tokens_sha256(tokens)),
        ]

    check(two(PAGE, PAGE), tokens)
    with pytest.raises(ValueError, match=r"segment [01] is none"):
        check(two(last, first), tokens)
