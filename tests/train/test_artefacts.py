"""What a compilation leaves to read: names and bytes that stay the same, and what they say."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import mpsplit.train  # noqa: F401  it registers the backend
from mpsplit.errors import MpsplitError


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 4)
        self.register_buffer("scale", torch.arange(4.0))

    def forward(self, x):
        return self.linear(x) * self.scale


def trained(folder, model: nn.Module, rows: int = 2, **options) -> dict[str, bytes]:
    """The files that one step leaves."""
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="mpsplit", options={"target": "eager", "artefacts": folder, **options})
    compiled(torch.ones(rows, 8)).sum().backward()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_model_gives_the_same_bytes_under_names_without_numbers(tmp_path):
    first, second = (trained(tmp_path / name, Scaled(), debug="const_name") for name in "ab")
    assert sorted(first) == ["backward.txt", "forward.txt", "weights.npz"]
    assert first == second


def test_a_line_has_types_the_operator_and_its_place_in_the_source(tmp_path):
    lines = trained(tmp_path, Scaled(), debug="const_name")["forward.txt"].decode().splitlines()
    assert lines[0] == "input %primals_1: float32[4, 8]"
    [line] = (line for line in lines if "aten.mul" in line)
    assert re.fullmatch(
        r"%mul: float32\[2, 4\] = aten\.mul\.Tensor\(%addmm, %primals_4\)"
        r"  # test_artefacts\.py:\d+ return self\.linear\(x\) \* self\.scale",
        line,
    )


def test_weights_have_the_names_of_the_inputs_that_they_are(tmp_path):
    model = Scaled()
    trained(tmp_path, model, debug="const_name")
    with np.load(tmp_path / "weights.npz") as arrays:
        found = dict(arrays)
    assert list(found) == ["primals_1", "primals_2", "primals_4"]  # the third is x
    for array, there in zip(found.values(), [model.linear.weight, model.linear.bias, model.scale], strict=True):
        assert np.array_equal(array, there.detach().numpy())


def test_else_a_hash_of_what_is_computed_is_in_the_names(tmp_path):
    one = set(trained(tmp_path, Scaled()))
    assert set(trained(tmp_path, Scaled())) == one and len(one) == 3
    assert all(re.fullmatch(r"(forward|backward|weights)-[0-9a-f]{12}\.(txt|npz)", name) for name in one)
    assert len(set(trained(tmp_path, Scaled(), rows=3)) - one) == 3


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        MpsplitError, match=r"^option 'artefacts' '.*/file/below' cannot be written \(Not a dir.*\); name"
    ):
        trained(tmp_path / "file" / "below", Scaled())
