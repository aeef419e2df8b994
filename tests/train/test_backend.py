"""The backend "mpsplit" against the same model without it: losses, gradients, what is reported."""

import copy

import pytest
import torch
from torch import nn

import mpsplit.train
from mpsplit.errors import MpsplitError


@torch.library.custom_op("mpsplit_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


twice.register_fake(torch.empty_like)
twice.register_autograd(lambda ctx, gradient: twice(gradient))


class Twice(nn.Module):
    def forward(self, x):
        return twice(x)


def mlp(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)
    )


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


def compare(model: nn.Module, x: torch.Tensor, **options) -> str:
    """Two steps with each, and the report of the compiled one."""
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, backend="mpsplit", options=options)
    for _ in range(2):
        for module in (plain, compiled):
            module(x).square().sum().backward()
    for (name, here), there in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(here.grad, there.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, here), there in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(here, there, msg=name)
    return mpsplit.train.report(compiled)


def test_what_no_converter_takes_is_run_by_torch_and_named():
    told = compare(mlp(Twice()), torch.randn(8, 8), target="eager")
    forward, named, backward, *_ = told.splitlines()
    assert forward.startswith("forward: ") and "in 2 partitions of eager, 1 run by torch" in forward
    assert named == "  mpsplit_tests.twice.default x 1"
    assert backward.startswith("backward: ") and backward.endswith("1 run by torch")


def test_convolutions_with_batch_norm():
    told = compare(convolutions(), torch.randn(8, 3, 8, 8), target="eager", strict=True)
    assert [line.split(":")[0] for line in told.splitlines()] == ["forward", "backward"]
    assert told.count(" 0 run by torch") == 2


@pytest.mark.seconds(400)
@pytest.mark.thorough
def test_inductor_compiles_what_stands_around_an_operator_of_ones_own():
    told = compare(mlp(Twice()), torch.randn(8, 8), target="inductor")
    assert "in 2 partitions of inductor, 1 run by torch" in told
    assert "mpsplit_tests.twice.default x 1" in told


@pytest.mark.seconds(400)
@pytest.mark.thorough
def test_what_inductor_hands_back_to_torch_is_named():
    told = compare(convolutions(), torch.randn(8, 3, 8, 8), target="inductor")
    assert told.splitlines()[2:] == ["  aten.convolution_backward.default x 1"]


def test_strict_makes_it_an_error():
    compiled = torch.compile(mlp(Twice()), backend="mpsplit", options={"target": "eager", "strict": True})
    with pytest.raises(MpsplitError, match="^forward: eager does not take mpsplit_tests.twice.default x 1; without"):
        compiled(torch.randn(8, 8))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"target": "tpu"}, "target 'tpu' does not exist; there are inductor, eager"),
        ({"tarket": "inductor"}, "option 'tarket' is unknown; there are target, strict, artefacts, debug, compare"),
        ({"compare": True}, "option 'compare' writes arrays; say where to: option 'artefacts'"),
        ({"debug": "all"}, "option 'debug' is 'all'; there is 'const_name'"),
        ({"strict": "yes"}, "option 'strict' is 'yes'; it is True or False"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, said):
    compiled = torch.compile(mlp(nn.ReLU()), backend="mpsplit", options=options)
    with pytest.raises(MpsplitError) as caught:
        compiled(torch.randn(8, 8))
    assert str(caught.value) == said


def test_a_report_before_the_first_call_says_so():
    with pytest.raises(MpsplitError, match="call it once"):
        mpsplit.train.report(mlp(nn.ReLU()))
