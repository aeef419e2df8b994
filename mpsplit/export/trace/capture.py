"""The dynamo graph of one rank's stage.

In: a Stage. Out: a GraphModule of torch functions with collectives as operators.

dynamo lifts parameters and symbolic lengths to placeholders. Here they become attributes with their
Hugging Face names, and a size of `hidden`, again. So the graph takes exactly hidden, cos, sin and
mask.

Invariant: the collectives in it are those that the plan wants, in that order.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from mpsplit.errors import ConvertError
from mpsplit.export.trace.operators import collective_of
from mpsplit.export.trace.slicing import Stage, neighbours, place
from mpsplit.export.trace.trace_inputs import INPUTS, Example
from mpsplit.package.collectives import STAGE, WORLD, Call
from mpsplit.plan.shards import Plan


def zeros(example: Example, device: str = "cpu") -> list[torch.Tensor]:
    return [torch.zeros(shape, device=device) for shape in example.shapes().values()]


def capture(stage: Stage, example: Example, device: str = "cpu", symbolic: bool = True) -> fx.GraphModule:
    """Traces the stage with TorchDynamo, in one graph, for any length; on "meta" shapes alone, of a
    stage without bytes.

    Where it is not symbolic, which takes half the time, the example's length stands for any: what
    would follow from it otherwise than by being it is for the symbolic one to find.
    """
    graphs: list[tuple[fx.GraphModule, list]] = []

    def backend(graph_module, inputs):
        graphs.append((graph_module, inputs))
        return graph_module.forward

    torch._dynamo.reset()
    tensors = zeros(example, device)
    for tensor, axes in zip(tensors, INPUTS.values(), strict=True):
        for axis in axes if symbolic else ():
            torch._dynamo.mark_dynamic(tensor, axis)
    with torch.no_grad():
        torch.compile(stage, fullgraph=True, backend=backend)(*tensors)
    if len(graphs) != 1:
        raise ConvertError(
            f"dynamo made {len(graphs)} graphs of the stage instead of one; this architecture needs a closer look"
        )
    return _with_named_weights(stage, *graphs[0], example.length)


def calls(graph_module: fx.GraphModule) -> tuple[Call, ...]:
    """The graph's collectives in order."""
    return tuple(
        Call(operator, tuple(node.args[1:]))
        for node in graph_module.graph.nodes
        if (operator := collective_of(node.target))
    )


def expected_calls(plan: Plan, rank: int) -> tuple[Call, ...]:
    """The collectives that the plan asks of a rank: Megatron's two sums a layer, one for the
    embedding, and the hand-overs."""
    shard = plan.shards[rank]
    source, targets = neighbours(plan, rank)
    summed = Call("all_reduce", (STAGE,))
    sums = 2 * len(shard.layers) + (shard.stage == 0) if len(plan.group(rank)) > 1 else 0
    received = () if source is None else (Call("recv", (WORLD, source)),)
    return received + (summed,) * sums + tuple(Call("send", (WORLD, peer)) for peer in targets)


def check_calls(schedule: tuple[Call, ...], expected: tuple[Call, ...], rank: int) -> None:
    for i, (have, want) in enumerate(zip([*schedule, None], [*expected, None], strict=False)):
        if have != want:
            raise ConvertError(
                f"the graph of rank {rank} has {len(schedule)} collectives, the plan asks for {len(expected)}; "
                f"at {i}: {have or 'nothing'} instead of {want or 'nothing'}"
            )


def check_alike(whole: fx.GraphModule, small: fx.GraphModule, layers: int, kept: int) -> None:
    """The operations of the whole graph must be those of the small one with its last decoder layer
    again and again."""
    a, b = ([str(node.target) for node in g.graph.nodes if node.op.startswith("call")] for g in (whole, small))
    more = layers - kept
    size, rest = divmod(len(a) - len(b), max(more, 1))  # of a decoder layer
    repeats = (b[: at + size] + b[at : at + size] * more + b[at + size :] for at in range(len(b) - size + 1))
    if rest or size < 0 or a not in repeats:
        raise ConvertError(
            f"the {layers} decoder layers are not alike: {len(a)} operations, {len(b)} in {kept} of them; this"
            " architecture needs a closer look"
        )


def as_text(graph_module: fx.GraphModule) -> str:
    """One node a line, to be read and to be diffed between ranks; typed_text.py adds types."""
    return f"{graph_module.graph}\n"


def _with_named_weights(stage: Stage, graph_module: fx.GraphModule, inputs: list, example: int) -> fx.GraphModule:
    """`example` is the length of the inputs."""
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    lifted = {node: value for node, value in zip(graph_module.graph.find_nodes(op="placeholder"), inputs, strict=True)}
    given = {node.name.strip("_").removeprefix("l_"): node for node in lifted}

    root, graph, mapped = nn.Module(), fx.Graph(), {}
    for name in INPUTS:
        new = graph.placeholder(name)
        if name in given:
            mapped[given[name]] = new
            new.meta = dict(given[name].meta)
    length = graph.call_method("size", (next(iter(graph.nodes)), 1))
    for node, value in lifted.items():
        if isinstance(value, torch.SymInt):
            mapped[node] = length
        elif id(value) in names:
            place(root, names[id(value)], value)
            mapped[node] = graph.get_attr(names[id(value)])
        elif node not in mapped:
            raise ConvertError(f"dynamo lifted {node.name} out of the stage; it is neither an input nor a weight")
    grown = lambda value: length if type(value) is int and value == example else value  # noqa: E731
    for node in graph_module.graph.nodes:
        if node not in mapped:
            mapped[node] = new = graph.node_copy(node, mapped.__getitem__)
            new.args, new.kwargs = fx.node.map_aggregate(new.args, grown), fx.node.map_aggregate(new.kwargs, grown)
    if not length.users:
        graph.erase_node(length)
    return fx.GraphModule(root, graph)
