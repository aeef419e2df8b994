"""What `mpsplit verify` says of stages: what plain rounding does is allowed, damage is not."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mpsplit.check.rounded_model import rounded_linears
from mpsplit.check.stages_agreement import EXACT, MARGIN, WORTHLESS, OutputAgreement
from mpsplit.package.stored.quantisation import KINDS, Quantisation

RANDOM = np.random.default_rng(5)
WANTED = [RANDOM.standard_normal((1, 40), np.float32) for _ in range(8)]


def agreement(package, rounding: float, tolerance: float | None = None) -> OutputAgreement:
    """`package`: what it makes of an output; `rounding`: what the plain one adds, as a share."""
    found = OutputAgreement(tolerance)
    for wanted in WANTED:
        found.add(package(wanted), wanted + rounding * RANDOM.standard_normal(wanted.shape, np.float32), wanted)
    return found


@pytest.mark.parametrize(
    "package, rounding, failed",
    [
        (lambda wanted: wanted * (1 + EXACT / 2), 0.0, False),
        (lambda wanted: wanted * (1 + 2 * EXACT), 0.0, True),
        (lambda wanted: wanted + 0.02 * RANDOM.standard_normal(wanted.shape), 0.02, False),
        (lambda wanted: wanted + (MARGIN + 1) * 0.02 * RANDOM.standard_normal(wanted.shape), 0.02, True),
        (np.zeros_like, 0.5, True),
        (lambda wanted: RANDOM.standard_normal(wanted.shape), 0.5, True),
        (lambda wanted: np.where(wanted > 2, np.nan, wanted), 0.02, True),
        (lambda wanted: wanted[:, :-1], 0.02, True),
    ],
)
def test_what_may_be_off(package, rounding, failed):
    found = agreement(package, rounding)
    assert found.failed is failed and found.limit <= WORTHLESS
    assert found.off(found.rounded) == pytest.approx(rounding, rel=0.2)
    assert f"{found.limit:.2g} may be" in str(found) or not failed


def test_a_tolerance_of_ones_own_is_for_any_number():
    apart = agreement(lambda wanted: wanted + 0.25, 0.0, tolerance=0.26)
    assert not apart.failed and apart.found.apart == pytest.approx(0.25, abs=1e-6)
    assert agreement(lambda wanted: wanted + 0.25, 0.0, tolerance=0.24).failed
    assert agreement(lambda wanted: np.full_like(wanted, np.nan), 0.0, tolerance=1e9).failed


def test_linears_of_either_kind_are_rounded_and_what_is_tied_to_them_is_not():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.mlp, self.head = nn.Embedding(10, 32), Conv1D(64, 32), nn.Linear(32, 10)
            self.head.weight = self.embedding.weight

    net, how = Net(), Quantisation(KINDS["q4"], 32)
    weights = {name: weight.clone() for name, weight in net.state_dict().items()}
    asked = {}
    rounded = rounded_linears(net, lambda name, inputs: asked.setdefault(name, inputs) and how)
    assert asked == {"mlp.weight": 32, "head.weight": 32}
    for name, before in weights.items():
        assert torch.equal(net.state_dict()[name], before)
        assert torch.equal(rounded.state_dict()[name], before) == (name not in asked)
    for block in rounded.mlp.weight.T:  # of 32 inputs, one block
        assert len(block.unique()) <= 16
    assert rounded.mlp(torch.ones(1, 32)).shape == (1, 64)
