"""Several requests at once over a real package, on 1, 2 and 4 ranks: each is answered as alone, to
the last bit of a logit in our own kernels."""

import shutil
from functools import partial

import numpy as np
import pytest

from mpsplit.package.stored.recipe import Recipe
from mpsplit.runtime.choose.sampling import Sampling
from mpsplit.runtime.engine.engine_protocol import Span
from mpsplit.runtime.load import load_engine, load_loop
from mpsplit.runtime.loop.loop_protocol import Request
from tests.cases import splits, thorough
from tests.loops import ENGINES, finished, lead
from tests.missing import need

pytestmark = pytest.mark.mpi
RANDOM = np.random.default_rng(6)
SAMPLINGS = [Sampling(), Sampling(0.9, 20, 0.9, 1.2, seed=4), Sampling(1.0, seed=5), Sampling(1.1, top_p=0.8, seed=6)]
PREFIX = tuple(RANDOM.integers(0, 131, 40).tolist())
REQUESTS = [
    Request((*(PREFIX if i % 2 else ()), *RANDOM.integers(0, 131, 1 + 7 * i).tolist()), 24, sampling, ignore_eos=True)
    for i, sampling in enumerate(SAMPLINGS * 2)
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("index", range(2))
def test_each_is_answered_as_alone(world, package_of, index, engine):
    cuts = splits(world.size)
    if index >= len(cuts):
        return  # one rank has one way to cut
    package = package_of("llama", *cuts[index])

    def work():
        alone = []
        for request in REQUESTS:
            loop.pages = type(loop.pages)(loop.pages.count)  # forget: from scratch
            alone.append(loop.generate(request).token_ids)
        loop.reserve(4 * loop.facts.context)
        assert [end.token_ids for end in finished(loop, REQUESTS)] == alone
        again = finished(loop, REQUESTS)
        assert [end.token_ids for end in again] == alone
        assert all(end.stats.cached_tokens >= len(end.token_ids) for end in again[1::2])

    loop = load_loop(package, world, chunk=9, engine=engine)
    lead(loop, world, work)


@pytest.fixture(scope="module")
def stored_as(world, package_of, shared_folder):
    """kind -> a llama, cut by columns, stored so."""
    from mpsplit.export.convert import convert
    from mpsplit.export.graph.pnnx import find_pnnx

    def make(kind):
        package, out = package_of("llama", *splits(world.size)[0]), shared_folder / f"llama-{kind}-together"
        if world.rank == 0:
            shutil.copytree(package, out)
        world.exchange(None)
        convert(out, world, find_pnnx(), Recipe.parse(kind, 32))
        return out

    return make


@pytest.mark.most(2)
@pytest.mark.parametrize("kind", ["f32", "q4", *thorough("q8", "bf16", ranks=2)])
def test_logits_do_not_depend_on_who_else_is_there(world, stored_as, kind):
    need("the engine")
    engine = load_engine(stored_as(kind), world, "native")
    tokens = [RANDOM.integers(0, 131, n).tolist() for n in (37, 1, 8, 64)]
    alone = [engine.step(prompt, 0)[0] for prompt in tokens]
    engine.reserve(16, "f32")
    for slot in range(4):
        engine.place(slot, 0, range(4 * slot, 4 * slot + 4))
    spans = [Span(slot, 0, len(prompt)) for slot, prompt in enumerate(tokens)]
    together = engine.batch([token for prompt in tokens for token in prompt], spans)
    same = partial(
        np.testing.assert_allclose, rtol=0, atol=1e-5 if kind == "f32" else 0
    )  # ncnn's own Gemm sums by shape
    for one, other in zip(alone, together, strict=True):
        same(one, other)
    last = engine.batch([5, 6, 7, 8], [Span(slot, len(prompt), 1) for slot, prompt in enumerate(tokens)])
    for slot, prompt in enumerate(tokens):
        engine.place(slot, 0, range(4))
        engine.batch(prompt, [Span(slot, 0, len(prompt))])
        same(engine.batch([5 + slot], [Span(slot, len(prompt), 1)])[0], last[slot])
