"""A rank's graph as a picture: every collective marked, equal layers folded, boxes beside each
other, text that means nothing."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from mpsplit.package.inside.anatomy import anatomy
from mpsplit.package.manifest import FUSED, GRAPH, rank_folder
from mpsplit.package.param_text import Param
from mpsplit.package.picture.chart import TALK, chart
from mpsplit.package.picture.chart_dot import dot
from mpsplit.package.picture.chart_svg import svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def graph_of(package_of):
    def load(tensor, pipeline, rank, name=FUSED, first=0):
        return anatomy(Param.load(rank_folder(package_of("llama", tensor, pipeline), rank) / name), first)

    return load


def rectangles(text):
    """(x, y, width, height) of the boxes of nodes: those with text on them are no frames."""
    return [
        tuple(float(e.get(key)) for key in ("x", "y", "width", "height"))
        for e in ET.fromstring(text).iter(f"{SVG}rect")
        if e.get("rx") == "4"
    ]


@pytest.mark.parametrize("name", [FUSED, GRAPH])
def test_equal_layers_are_folded_and_every_collective_is_marked(graph_of, name):
    graph = graph_of(2, 1, 1, name)
    folded, unfolded = chart(graph), chart(graph, unfold=True)
    assert [block.heading for block in folded.blocks] == ["embedding", "layer 0 .. 2: each like this, x 3", "head"]
    assert [block.title for block in unfolded.blocks] == ["embedding", "layer 0", "layer 1", "layer 2", "head"]
    counts = [sum(node.kind == TALK for block in c.blocks for node in block.nodes) for c in (folded, unfolded)]
    assert counts == [3, 7]
    rows = {node.name: (i, node.row) for i, block in enumerate(folded.blocks) for node in block.nodes}
    assert all(rows[a] < rows[b] for a, b in folded.edges), "lines go down"
    read = {b for _, b in folded.edges}
    assert set(rows) - read == {"hidden"}, "every box hangs together with the first"


def test_send_and_recv_say_whom(graph_of):
    first, last = chart(graph_of(2, 2, 0)), chart(graph_of(2, 2, 3, first=2))
    said = [node.lines for c in (first, last) for block in c.blocks for node in block.nodes if node.kind == TALK]
    assert ("Send", "world, rank 2") in said and ("Recv", "world, rank 1") in said


@pytest.mark.parametrize("unfold", [False, True])
def test_boxes_do_not_touch_and_stay_in_the_picture(graph_of, unfold):
    found = chart(graph_of(2, 1, 0, GRAPH), unfold)
    text = svg(found, "a title")
    root, boxes = ET.fromstring(text), rectangles(text)
    assert len(boxes) == sum(len(block.nodes) for block in found.blocks)
    width, height = float(root.get("width")), float(root.get("height"))
    for i, (x, y, w, h) in enumerate(boxes):
        assert x > 0 and x + w < width and y > 0 and y + h < height
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in boxes[:i])


def test_text_of_files_is_escaped(graph_of):
    found = chart(graph_of(1, 1, 0))
    node = replace(found.blocks[0].nodes[0], lines=('a"<b>\\', "&"))
    odd = replace(found, blocks=(replace(found.blocks[0], nodes=(node,)), *found.blocks[1:]))
    assert 'label="a\\"<b>\\\\\\n&"' in dot(odd, 'x"')
    assert ET.fromstring(svg(odd, "<script>")).find(f"{SVG}title").text == "<script>"


def test_dot_is_balanced_and_names_only_what_is_there(graph_of):
    text = dot(chart(graph_of(2, 1, 0)), "rank 0")
    assert text.count("{") == text.count("}") and text.startswith("digraph rank {")
    nodes = set(re.findall(r'^    "([^"]+)" \[label', text, re.M))
    assert nodes >= {name for pair in re.findall(r'^  "([^"]+)" -> "([^"]+)";$', text, re.M) for name in pair}
