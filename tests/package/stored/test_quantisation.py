"""What a kind of weights says of itself, against rounding done by hand."""

import numpy as np
import pytest

from mpsplit.package.stored.quantisation import KINDS, ROUNDED, TABLES, Quantisation


@pytest.mark.parametrize("kind", [kind for kind in ROUNDED if kind not in ("f32", "bf16")])
def test_a_step_is_twice_what_rounding_may_move_a_number(kind):
    """Of numbers up to 1, where the step's scale just reaches 1."""
    how = Quantisation(KINDS[kind], 32)
    integers = TABLES.get(how.bits) or range(how.lowest + 1, -how.lowest)
    largest = max(map(abs, integers))
    numbers = np.linspace(-1, 1, 20_001)
    moved = np.abs(numbers[:, None] - np.array(integers) / largest).min(1).max()
    assert 2 * moved == pytest.approx(how.step, abs=1e-3 * how.step + 2e-4)
