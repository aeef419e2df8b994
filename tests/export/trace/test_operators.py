"""The operators against torch's own checks, and all five through pnnx and ncnn."""

import ncnn
import numpy as np
import pytest
import torch

from mpsplit.comm import Alone
from mpsplit.errors import ConvertError
from mpsplit.export.graph.pnnx import find_pnnx, run_pnnx, shapes_of
from mpsplit.export.graph.rewrites import Context
from mpsplit.export.graph.rewrites.collective_arguments import collective_arguments
from mpsplit.export.trace import operators, torchscript
from mpsplit.export.trace.capture import calls
from mpsplit.export.trace.trace_inputs import INPUTS, Example
from mpsplit.package.collectives import BY_OPERATOR, COLLECTIVES, Call
from mpsplit.package.param_text import Layer, Param
from mpsplit.runtime.engine import collective_layers

ARGUMENTS = {"all_reduce": (1,), "all_gather": (1, 3), "broadcast": (1, 0), "send": (0, 2), "recv": (0, 2)}


@pytest.mark.parametrize("operator", BY_OPERATOR)
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 6)])
def test_opcheck(operator, shape):
    torch.library.opcheck(getattr(torch.ops.mpi_extensions, operator), (torch.randn(shape), *ARGUMENTS[operator]))


def test_all_gather_widens_the_last_axis():
    assert operators.all_gather(torch.ones(2, 5), 1, 3).shape == (2, 15)


def test_the_schema_is_the_table():
    for collective in COLLECTIVES:
        schema = getattr(torch.ops.mpi_extensions, collective.operator).default._schema
        assert tuple(argument.name for argument in schema.arguments[1:]) == collective.arguments


def graph_of_all_five() -> torch.fx.GraphModule:
    graph = torch.fx.Graph()
    hidden, *others = [graph.placeholder(name) for name in INPUTS]
    for operator in ("recv", "all_reduce", "broadcast", "all_gather", "send"):
        hidden = graph.call_function(getattr(torch.ops.mpi_extensions, operator), (hidden, *ARGUMENTS[operator]))
        hidden = graph.call_function(torch.nn.functional.silu, (hidden,))
    others = [graph.call_function(torch.nn.functional.silu, (other,)) for other in others]
    graph.output((hidden, *others))
    return torch.fx.GraphModule(torch.nn.Module(), graph)


class Fake(Alone):
    """A group of three that writes down what it is asked for."""

    def __init__(self, name, journal):
        self.name, self.journal = name, journal

    def __getattribute__(self, name):
        if name in ("all_reduce", "broadcast", "send", "recv"):
            return lambda x, *rest: self.journal.append((self.name, name, *rest)) or x.__imul__(2)
        if name == "all_gather":
            return lambda x: self.journal.append((self.name, name)) or np.concatenate([x] * 3, axis=-1)
        return super().__getattribute__(name)


def test_all_five_through_pnnx_and_ncnn(tmp_path):
    graph_module = graph_of_all_five()
    schedule = calls(graph_module)
    assert [call.operator for call in schedule] == ["recv", "all_reduce", "broadcast", "all_gather", "send"]
    examples = [Example(7, 12, 4), Example(11, 12, 4)]
    torchscript.save(graph_module, examples[0], tmp_path / "five.pt", "module")
    converted = run_pnnx(find_pnnx(), tmp_path / "five.pt", list(map(shapes_of, examples)), tmp_path / "out")
    param = collective_arguments(Param.load(converted.ncnn_param), Context(schedule, (7, 11), 0, False))
    (tmp_path / "five.param").write_text(str(param))

    journal = []
    net = ncnn.Net()
    groups = {0: Fake("world", journal), 1: Fake("stage", journal)}
    alive = collective_layers.register(net, groups)
    assert net.load_param(str(tmp_path / "five.param")) == 0 and net.load_model(str(converted.ncnn_bin)) == 0
    assert len(alive) == 5
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x).clone())
    status, out = extractor.extract("out0")
    assert status == 0
    assert journal == [
        ("world", "recv", 2),
        ("stage", "all_reduce"),
        ("stage", "broadcast", 0),
        ("stage", "all_gather"),
        ("world", "send", 2),
    ]
    silu = lambda a: a / (1 + np.exp(-a))  # noqa: E731
    expected = x
    for widen in (False, False, False, True, False):
        expected = silu(np.concatenate([expected] * 3, axis=-1) if widen else 2 * expected)
    assert np.allclose(out.numpy(), expected, atol=1e-5)


def test_a_collective_that_pnnx_lost_is_an_error():
    param = Param((Layer("AllReduce", "a", ("in0",), ("1",)),))
    context = Context((Call("all_reduce", (1,)), Call("all_reduce", (1,))), (7, 11), 0, False)
    with pytest.raises(ConvertError, match="pnnx kept 1 of 2 collectives"):
        collective_arguments(param, context)


def test_the_customop_route_names_the_same_layers():
    param = Param((Layer("mpi_extensions.broadcast", "b", ("in0",), ("1",), {"1": "1", "2": "0"}),))
    rewritten = collective_arguments(param, Context((Call("broadcast", (1, 0)),), (7, 11), 0, False))
    assert rewritten.layers == (Layer("Broadcast", "broadcast_0", ("in0",), ("1",), {"1": "1", "2": "0"}),)


def test_a_layer_without_its_group_does_not_load(tmp_path):
    (tmp_path / "x.param").write_text(
        str(Param((Layer("Input", "x", (), ("x",)), Layer("AllReduce", "a", ("x",), ("y",), {"1": "9"}))))
    )
    net = ncnn.Net()
    alive = collective_layers.register(net, {0: Alone()})
    assert net.load_param(str(tmp_path / "x.param")) != 0 and alive
