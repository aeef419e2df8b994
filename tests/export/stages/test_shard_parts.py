"""Which linears become one part, what is left for a stage's own graph, and that the shards of any
index lists compute the whole, in eager torch."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from mpsplit.export.stages.captured import Capture, capture
from mpsplit.export.stages.model_builder import Subject
from mpsplit.export.stages.shard_parts import Part, linears_of, own_graph, parts_of, sizes_of
from mpsplit.export.stages.shard_program import ShardExtraction
from mpsplit.export.stages.stage_program import stage_module, weight_name
from mpsplit.package.stages.sharded_part import PAIR, ZEROS, ShardedPart
from mpsplit.plan.stages.index_lists import COLUMNS, ROWS, Wish, cuts_of, runs_of
from tests.export.stages.factories import bottleneck


@cache
def captured() -> tuple[Capture, dict[str, torch.Tensor]]:
    """And the value of each of its nodes, on a random input."""
    module, inputs = bottleneck()
    found = capture(Subject(module.eval(), inputs, {}))
    torch.manual_seed(1)
    interpreter = fx.Interpreter(found.graph, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*(torch.randn(given.shape) for given in inputs.values()))
    return found, {node.name: value for node, value in interpreter.env.items()}


def nodes_of(found: Capture) -> list[str]:
    return [node.name for node in found.graph.graph.nodes if node.op == "call_function"]


def found_parts(*wishes: Wish) -> tuple[Part, ...]:
    found, _ = captured()
    cuts = cuts_of(wishes, sizes_of(linears_of(found)), [])
    return parts_of(found, nodes_of(found), cuts, dict.fromkeys(nodes_of(found), 1))


def equal(pattern: str, along: str, count: int = 2) -> Wish:
    return Wish(pattern, pattern, along, count)


def test_linears_and_convolutions_of_one_pixel_can_be_divided():
    assert sizes_of(linears_of(captured()[0])) == {
        "narrow": (24, 3), "wide": (40, 24), "last": (24, 40), "gate": (36, 24), "up": (36, 24), "down": (5, 36),
    }  # fmt: skip


@pytest.mark.parametrize(
    "wishes, parts",
    [
        ([equal("gate", ROWS)], [(("gate",), ROWS, 1)]),
        ([equal("down", COLUMNS)], [(("down",), COLUMNS, 1)]),
        ([equal("narrow", ROWS)], [(("narrow",), ROWS, 2)]),  # with its norm
        ([equal("wide", ROWS), equal("last", COLUMNS)], [(("wide", "last"), PAIR, 4)]),
        ([equal("gate", ROWS), equal("up", ROWS), equal("down", COLUMNS)], [(("gate", "up", "down"), PAIR, 5)]),
        ([equal("gate", ROWS), equal("down", COLUMNS)], [(("gate",), ROWS, 1), (("down",), COLUMNS, 1)]),
        ([equal("wide", ROWS, 3), equal("last", COLUMNS)], [(("wide",), ROWS, 2), (("last",), COLUMNS, 1)]),
        ([equal("wide", ROWS), equal("last", ROWS)], [(("wide",), ROWS, 2), (("last",), ROWS, 1)]),
    ],
)
def test_what_is_one_part(wishes, parts):
    assert [(part.modules, part.cut, len(part.nodes)) for part in found_parts(*wishes)] == parts


def filled(module: fx.GraphModule, entries: dict[str, tuple[int, list[int]]]) -> fx.GraphModule:
    """With the weights that convert would read."""
    found, values = captured()
    weights = {weight_name(name): values[node] for node, name in found.weights.items()}
    for name, parameter in module.named_parameters():
        tensor = weights[name]
        if name in entries:
            axis, indices = entries[name]
            places = torch.tensor(indices)
            tensor = tensor.index_select(axis, places.clamp(min=0)).movedim(axis, 0).clone()
            tensor[places == ZEROS] = 0
            tensor = tensor.movedim(0, axis)
        assert tensor.shape == parameter.shape
        parameter.data = tensor.contiguous()
    return module


def lists(size: int, count: int, chance: np.random.Generator) -> tuple[np.ndarray, ...]:
    owner = chance.integers(0, count, size)
    found = [indices for shard in range(count) if len(indices := np.flatnonzero(owner == shard))]
    return tuple(found)


WAYS = [("narrow", ROWS), ("wide", ROWS), ("wide", COLUMNS), ("last", COLUMNS), ("last", ROWS), ("gate", ROWS),
        ("up", ROWS), ("down", COLUMNS), ("down", ROWS)]  # fmt: skip


@pytest.mark.seconds(120)
@settings(max_examples=25, deadline=None)
@given(ways=st.lists(st.sampled_from(WAYS), min_size=1, unique_by=lambda way: way[0]), paired=st.booleans(),
       count=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_shards_of_any_lists_compute_the_whole(ways, paired, count, seed):
    found, values = captured()
    chance = np.random.default_rng(seed)
    sizes = sizes_of(linears_of(found))
    same = {size: lists(size, count, chance) for size in (24, 36, 40)}
    wishes = []
    for module, along in ways:
        size = sizes[module][along == COLUMNS]
        its_lists = same[size] if paired and size in same else lists(size, count, chance)
        wishes.append(Wish(module, module, along, len(its_lists), its_lists))
    parts = found_parts(*wishes)
    assert sorted(module for part in parts for module in part.modules) == sorted(module for module, _ in ways)
    own = own_graph(found, nodes_of(found), found.inputs, (), tuple(found.outputs.values()), parts)
    for part in parts:
        check_part(part, found, values)
    with torch.no_grad():
        given_values = [values[name] for name in own.inputs]
        outputs = filled(stage_module(found, own.nodes, own.inputs, own.outputs), {})(*given_values)
    for name, output in zip(own.outputs, outputs, strict=True):
        torch.testing.assert_close(output, values[name])


def check_part(part: Part, found: Capture, values: dict[str, torch.Tensor]) -> None:
    ranks = tuple(range(len(part.shards)))
    sharded = ShardedPart(part.modules, part.cut, part.takes, part.gives, part.axis, ranks, part.shards,
                          (0,) * len(ranks), 0, (0,) * len(ranks)).check("s")  # fmt: skip
    whole = values[part.gives].numpy()
    pieces = []
    for shard in ranks:
        program = ShardExtraction(found, part, shard)
        module = filled(program.module(), program.entries)
        x = sharded.for_shard(shard, values[part.takes].numpy())
        with torch.no_grad():
            [y] = module(torch.from_numpy(np.ascontiguousarray(x)))
        assert tuple(y.shape) == sharded.computed(shard, whole.shape)
        pieces.append(sharded.without_zeros(shard, y.numpy()))
        assert pieces[-1].shape == sharded.given(shard, whole.shape)
    np.testing.assert_allclose(sharded.together(pieces, whole.shape), whole, rtol=1e-4, atol=1e-5)


def test_a_shard_counts_its_own_weights():
    [part] = found_parts(Wish("last", "last", COLUMNS, 2, (np.arange(3), np.arange(3, 40))))
    few, rest = (ShardExtraction(captured()[0], part, shard) for shard in (0, 1))
    assert few.bytes == 4 * (24 * 3 + 24) and few.weights == ("last.weight", "last.bias")
    assert rest.bytes == 4 * 24 * 37 and rest.weights == ("last.weight",)
    assert part.shards == (runs_of(np.arange(3)), runs_of(np.arange(3, 40)))
