"""Both pictures of a plan, read back: what they must say, that they stay small, and that no name
breaks them."""

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from mpsplit.plan.cluster import described
from mpsplit.plan.draw.plan_columns import blocks_of, copied, wires_of
from mpsplit.plan.draw.plan_svg import svg
from mpsplit.plan.draw.plan_text import BLOCKS, PLAIN, glyphs_for, text
from mpsplit.plan.draw.plan_words import bytes_text
from mpsplit.plan.price.cost import price
from mpsplit.plan.price.sizes import Job
from mpsplit.plan.shards import Share, even_plan, lay_out
from tests.models import facts

F = facts(heads=32, kv_heads=32, mlp=1024, layers=12, vocabulary=4096, hidden=256)
ALL = dict(heads=32, mlp=1024)
HYBRID = lay_out(F, [(5, [Share(20, 704, 3000), Share(12, 320, 1096)]), (7, [Share(**ALL, head=4096)])])
EDGES = lay_out(F, [(0, [Share(0, 0, embed=4096)]), (12, [Share(**ALL)]), (0, [Share(0, 0, head=4096)])])


def drawn(plan, f=F, cluster=None, draw=svg, **more):
    cluster = cluster or described([1 << 30] * plan.ranks)
    job = Job(context=128)
    return draw(f, plan, cluster, job, price(f, plan, cluster, job), **more)


def words(picture: str) -> str:
    return " | ".join(part for part in ElementTree.fromstring(picture).itertext() if part.strip())


@pytest.mark.parametrize("plan", [even_plan(F, 2, 1), even_plan(F, 1, 3), HYBRID, EDGES, even_plan(F, 1, 1)])
def test_every_rank_and_every_byte_between_ranks_is_in_the_picture(plan):
    shown = words(drawn(plan))
    cost = price(F, plan, described([1 << 30] * plan.ranks), Job(context=128))
    for rank in range(plan.ranks):
        assert f"rank {rank} |" in shown
    for size in cost.wire.values():
        assert f"{size:,} bytes a token" in shown and bytes_text(size) in shown
    for stage in range(len(plan.stages)):
        assert f"stage {stage}," in shown
    assert "tok/s" in shown and "first token after" in shown and "a guess" in shown


def test_it_needs_nothing_from_elsewhere_and_says_what_it_is():
    picture = drawn(HYBRID, name="tiny")
    root = ElementTree.fromstring(picture)
    assert picture.count("http") == 1  # the name of SVG itself
    assert "<script" not in picture and "<image" not in picture
    assert root[0].tag.endswith("title") and root[0].text.startswith("tiny")
    assert root[1].tag.endswith("desc") and "rank 2" in root[1].text


def test_names_are_escaped():
    cluster = described([1 << 30] * 3)
    devices = [replace(d, name='<a href="x">&', host="<b>&") for d in cluster.devices]
    picture = drawn(HYBRID, cluster=replace(cluster, devices=tuple(devices)), name="<script>&")
    assert '<a href="x">&' in words(picture) and "host <b>&" in words(picture)
    assert "<script" not in picture and "<b>" not in picture


def test_equal_ranks_and_stages_are_drawn_as_one():
    plan = even_plan(replace(F, layers=32), 8, 8)
    shown = words(drawn(plan, replace(F, layers=32)))
    assert "ranks 8 to 55 \u00d7 48" in shown and "stages 1 to 6, layers 4 to 27" in shown
    cluster = described([1 << 30] * 64)
    cost = price(replace(F, layers=32), plan, cluster, Job())
    blocks = blocks_of(plan, cluster, cost)
    assert sorted(rank for block in blocks for c in block.columns for rank in c.ranks) == list(range(64))
    assert sum(wires.size for wires in wires_of(blocks, cluster, cost).values()) == sum(cost.wire.values())


@pytest.mark.parametrize("unlike", [False, True])
def test_thousands_of_ranks_stay_readable(unlike):
    ranks = 4096
    wide = replace(F, heads=ranks, kv_heads=ranks, mlp=32 * ranks, vocabulary=32 * ranks)
    cluster = described([(1 << 30) + unlike * (i % 7 << 20) for i in range(ranks)])
    picture = drawn(even_plan(wide, ranks, 1), wide, cluster)
    assert len(picture) < 200_000
    assert len(drawn(even_plan(wide, ranks, 1), wide, cluster, text, glyphs=BLOCKS).splitlines()) < 30
    assert ("\u00d7 4,096" in picture) == (not unlike)


def test_copies_of_kv_heads_are_shown():
    few = replace(F, kv_heads=2)
    assert "KV heads 1 of 2, copied" in words(drawn(even_plan(few, 4, 1), few))
    assert "1*" in drawn(even_plan(few, 4, 1), few, draw=text)
    cost = price(F, HYBRID, described([1 << 30] * 3), Job())
    assert not any(copied(HYBRID, c) for b in blocks_of(HYBRID, described([1 << 30] * 3), cost) for c in b.columns)


def test_what_does_not_fit_is_said():
    small = described([1 << 20] * 3)
    assert "does not fit" in words(drawn(HYBRID, cluster=small))
    assert "0.00!" in drawn(HYBRID, cluster=small, draw=text)


@pytest.mark.parametrize("glyphs", [BLOCKS, PLAIN])
@pytest.mark.parametrize("plan", [HYBRID, EDGES, even_plan(F, 4, 3)])
def test_lines_for_a_terminal(plan, glyphs):
    cluster = described([1 << 30] * plan.ranks)
    devices = tuple(replace(d, name="na\u00efve-\u00b5-machine-of-a-long-name") for d in cluster.devices)
    whole = drawn(plan, cluster=replace(cluster, devices=devices), draw=text, glyphs=glyphs)
    assert max(len(line) for line in whole.splitlines()) <= 100
    assert whole.isascii() == (glyphs is PLAIN)
    assert "tok/s" in whole and "handed over a token" in whole


def test_only_a_terminal_that_takes_utf8_gets_blocks():
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    assert glyphs_for(Terminal(io.BytesIO(), encoding="utf-8")) is BLOCKS
    assert glyphs_for(Terminal(io.BytesIO(), encoding="ascii")) is PLAIN
    assert glyphs_for(io.StringIO()) is PLAIN
