"""The sliced modules over real ranks against transformers, before anything is traced or converted."""

import pytest

from mpsplit.check.gate import LIMITS, failures
from mpsplit.check.verification import Trial, sliced, verify
from mpsplit.export.model.model_source import read_config
from mpsplit.export.trace import operators
from mpsplit.package.collectives import STAGE
from mpsplit.package.manifest import PARTITION, Manifest
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.conftest import splits, thorough

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def partition_of(world, shared_folder, model_of):
    from mpsplit.export.partition import partition

    def make(family, tensor, pipeline):
        folder = model_of(family)
        out = shared_folder / f"sliced-{family}-{tensor}x{pipeline}"
        if not out.exists():
            world.exchange(None)
            partition(folder, even_plan(ModelFacts.from_config(read_config(folder)), tensor, pipeline), out, world)
        world.exchange(None)
        return out, folder

    return make


@pytest.fixture
def loop_of(world, partition_of):
    if world.size > 1 and not operators.CONNECTS:
        pytest.skip("the torch operators are not built; python -m mpsplit.native builds them")
    engines = []

    def make(family, tensor, pipeline):
        package, folder = partition_of(family, tensor, pipeline)
        engines.append(sliced(Manifest.load(package, PARTITION), folder, world))
        return TokenLoop(engines[-1], world, None, chunk=9), Trial(package, folder, layers=True)

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("index", range(2))
@pytest.mark.parametrize("family", ["mistral-window", *thorough("llama-bias", ranks=4)])
def test_the_sliced_modules_are_the_model(world, loop_of, family, index):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    loop, trial = loop_of(family, *cuts[index])
    found = verify(loop, world, trial)
    assert found is None or not failures(found, LIMITS["f32"].with_wishes(tolerance=1e-4)), found
    assert (sum(world.exchange(loop.engine.bytes_sent)) > 0) == (world.size > 1)


def test_without_the_sums_they_are_not(world, loop_of):
    """What the operators do between ranks is what makes the ranks one model."""
    if world.size == 1:
        return  # nothing is summed
    loop, trial = loop_of("llama-bias", world.size, 1)
    operators.connect({STAGE: ()})
    found = verify(loop, world, trial)
    assert found is None or found.max_abs > 0.1, found
    assert found is None or "first parts at embedding" in str(failures(found, LIMITS["f32"])), found
