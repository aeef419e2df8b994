"""What is printed is read back unchanged; what cannot be read is refused with its line."""

import pytest
from hypothesis import given, settings

from mpsplit.errors import GraphError
from mpsplit.graph.graph_parser import parse_graph
from mpsplit.graph.graph_text import graph_text
from mpsplit.graph.symbols import Size
from mpsplit.graph.value_types import ValueType
from tests.graphs import graphs

TEXT = """graph "two norms"
input x: f32[rows, 8]
repeat layer 0..2 {
  carry h: f32[rows, 8] from x next normed to last
  weight w: f32[8] of layers.{layer}.norm.weight
  normed: f32[rows, 8] = rms_norm(h, w) epsilon=1e-06
}
output last
"""


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_any_graph_is_read_back_as_it_was(graph):
    text = graph_text(graph)
    assert parse_graph(text) == graph
    assert graph_text(parse_graph(text)) == text


def test_a_text_is_what_its_docstring_says():
    assert graph_text(parse_graph(TEXT)) == TEXT
    assert graph_text(parse_graph(f"# of two\n\n{TEXT}".replace("  ", "\t"))) == TEXT


@pytest.mark.parametrize("text", ["0", "128", "rows", "-rows+3", "past+2*rows-1"])
def test_sizes(text):
    assert str(Size.parse(text)) == text


@pytest.mark.parametrize("text", ["", "+", "rows rows", "1.5", "2*", "rows past", "\u0663"])
def test_what_is_no_size(text):
    with pytest.raises(GraphError, match="is no size"):
        Size.parse(text)


@pytest.mark.parametrize(
    "text, said",
    [
        ("f32[0]", "has a size of 0; sizes begin at 1"),
        ("q4x32[8, 32]", "elements of 'q4x32' do not lie in rows"),
        ("q4x32[rows, 32] panels", "only a matrix of two numbers lies in panels"),
        ("q4x32[16, 33] panels", "no matrix of that kind and size lies in panels"),
        ("q5x32[16, 32] panels", "'q5x32' is no kind of element"),
        ("q4x77[16, 77] panels", "'q4x77' is no kind of element"),
        ("f32[4] in rows", "is no type"),
    ],
)
def test_what_is_no_type(text, said):
    with pytest.raises(GraphError, match=said.replace("[", r"\[")):
        ValueType.parse(text)


def test_bytes_of_types():
    numbers = {"rows": 3, "past": 10}
    assert ValueType.parse("f32[2, past+rows, 4]").bytes(numbers) == 4 * 2 * 13 * 4
    assert ValueType.parse("q4x32[16, 64] panels").bytes({}) == 16 * 64 // 2 + 2 * 16 * 2  # a 16-bit scale a block
    with pytest.raises(GraphError, match="past needs a number for past; there are numbers for rows"):
        Size.parse("past").value({"rows": 3})


@pytest.mark.parametrize(
    "old, new, said",
    [
        ('graph "two norms"', "graph two", "begins with its title"),
        ("rms_norm(h, w)", "rms_norn(h, w)", "line 6: there is no operator 'rms_norn'; there are rms_norm"),
        ("rms_norm(h, w)", "rms_norm(h, v)", "normed = rms_norm reads 'v', which nobody makes before it"),
        ("rms_norm(h, w)", "rms_norm(h)", r"rms_norm\(x f32\[rows, 8\]\): it takes one weight"),
        ("w: f32[8]", "w: f32[9]", r"rms_norm\(x f32\[rows, 8\], f32\[9\]\): 9 numbers of a norm do not fit 8 x "),
        ("normed: f32[rows, 8] =", "normed: f32[rows, 9] =", r"makes f32\[rows, 8\], not f32\[rows, 9\]"),
        ("next normed", "next w", r"h goes on with w, which is f32\[8\], it must be f32\[rows, 8\]"),
        ("from x", "from y", "h begins with reads 'y'"),
        ("0..2", "2..2", "repeat layer 2..2 has no turn"),
        ("{layer}", "{depth}", "asks for depth, which no repeat around it counts"),
        ("input x: f32[rows, 8]", "input x: f32[layer, 8]", "makes|changes|it must be"),
        ("w: f32[8]", "w: f32[layer]", "which changes with layer; turns must be equal"),
        ("epsilon=1e-06", "epsilon=nan", "epsilon=nan of rms_norm must be a number"),
        ("epsilon=1e-06", "eps=1", "rms_norm has no attribute eps; it has epsilon"),
        ("epsilon=1e-06", "epsilon=1 epsilon=2", "has an attribute twice"),
        ("\n}\n", "\n", "1 of its repeats do not end"),
        ("output last", "}\noutput last", "line 8: '}' is no line of a graph"),
        ("output last", "output normed", "the output normed reads 'normed', which nobody makes before it"),
        ("output last", "output last\noutput x as last", "last is an output twice"),
        ("\n}\n", "\n output normed as out\n}\n", "out is the same in each turn of layer; write {layer} into it"),
        ("weight w", "weight h", "there are two of the name h"),
    ],
)
def test_what_cannot_be_read_is_refused(old, new, said):
    assert old in TEXT
    with pytest.raises(GraphError, match=said):
        parse_graph(TEXT.replace(old, new))
