"""The sliced modules over real ranks against transformers, before they are traced and converted."""

import pytest

from mpsplit.check.gate import Limits, failures
from mpsplit.check.verification import verify
from mpsplit.export.trace import operators
from mpsplit.package.collectives import STAGE
from tests.cases import splits, thorough

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ["mistral-window", *thorough("llama-bias", ranks=4)])
def test_the_sliced_modules_are_the_model(world, loop_of, family, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    loop, trial = loop_of(family, *cuts[index])
    found = verify(loop, world, trial)
    assert (found is None) == (world.rank > 0), "rank 0 is told"
    assert not found or not failures(found, Limits.of(found).with_wishes(tolerance=1e-4)), found
    assert (sum(world.exchange(loop.engine.bytes_sent)) > 0) == (world.size > 1)


def test_without_the_sums_they_are_not(world, loop_of):
    """What the operators do between ranks is what makes the ranks one model."""
    if world.size == 1:
        return  # nothing is summed
    loop, trial = loop_of("llama-bias", world.size, 1)
    operators.connect({STAGE: ()})
    found = verify(loop, world, trial)
    assert (found is None) == (world.rank > 0), "rank 0 is told"
    assert not found or found.max_abs > 0.1, found
    assert not found or "first parts at embedding" in str(failures(found, Limits.of(found))), found
