"""Compare mode: nothing parts where torch computes, and a target that is wrong is named."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import mpsplit.train
from mpsplit.train.targets import TARGETS, Target


class Attending(nn.Module):
    """With an operator of several outputs, integers, a mask and a softmax."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.norm, self.out = nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, ids):
        hidden = self.norm(self.embedding(ids))
        scores = (hidden @ hidden.transpose(-1, -2)).masked_fill(ids[None] == 3, float("-inf"))
        return self.out(scores.softmax(-1) @ hidden * 0.5)


def compared(folder, target: str = "eager") -> tuple[list[str], nn.Module, torch.Tensor]:
    torch._dynamo.reset()
    model, ids = Attending(), torch.tensor([1, 3, 2, 5])
    options = {"target": target, "artefacts": folder, "debug": "const_name", "compare": True}
    compiled = torch.compile(model, backend="mpsplit", options=options)
    out = compiled(ids)
    out.square().sum().backward()
    return mpsplit.train.report(compiled).splitlines(), model, out


def test_nothing_parts_where_torch_computes(tmp_path):
    told, model, out = compared(tmp_path)
    plain = Attending()
    plain(torch.tensor([1, 3, 2, 5])).square().sum().backward()
    for here, there in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(here.grad, there.grad)
    lines = [line for line in told if "compared" in line]
    assert len(lines) == 2 and all(line.endswith("none parts") for line in lines)
    with np.load(tmp_path / "forward-compared.npz") as arrays:
        name = next(reversed(arrays.files)).removesuffix(".float64")
        assert np.array_equal(arrays[name].reshape(out.shape), out.detach().numpy())
        np.testing.assert_allclose(arrays[name], arrays[f"{name}.float64"], rtol=1e-5, atol=1e-6)
        assert arrays[f"{name}.float64"].dtype == np.float64


@pytest.mark.parametrize("wrong, direction, place", [("_softmax.default", 0, "scores.softmax"), ("mm.default", 1, "")])
def test_an_operator_that_is_wrong_is_named_with_its_place(tmp_path, monkeypatch, wrong, direction, place):
    def compile_wrongly(graph):
        off = any(str(node.target).endswith(wrong) for node in graph.graph.nodes)
        return lambda *values: tuple(value * 1.01 if off else value for value in graph(*values))

    monkeypatch.setitem(TARGETS, "wrong", Target(lambda operator: operator.namespace == "aten", compile_wrongly))
    told, *_ = compared(tmp_path, "wrong")
    line = [line for line in told if "compared" in line][direction]
    assert re.search(
        rf"first to part: %\w+, aten\.{re.escape(wrong)}, off by 1\.0e-02 at .*{re.escape(place)}", line
    ), line
