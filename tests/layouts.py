"""For hypothesis: any model, and any way to cut it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import Share
from mpsplit.plan.steps import divide, divide_heads, steps_of
from tests.models import facts


@st.composite
def models(draw) -> ModelFacts:
    kv_heads = draw(st.integers(1, 6))
    sizes = {name: draw(st.integers(1, most)) for name, most in (("head_dim", 5), ("mlp", 300), ("vocabulary", 300))}
    return facts(kv_heads=kv_heads, heads=kv_heads * draw(st.integers(1, 6)), layers=draw(st.integers(1, 6)), **sizes)


@st.composite
def layouts(draw) -> tuple[ModelFacts, list[tuple[int, list[Share]]]]:
    """A model and stages of ranks so different in speed that some are left with nothing; the first
    and last may have no layers."""
    f = draw(models())
    layers = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    layers = [0] * draw(st.booleans()) + layers + [0] * draw(st.booleans())
    stages = []
    for i, count in enumerate(layers):
        speeds = draw(st.lists(st.sampled_from([1, 10, 100]), min_size=1, max_size=9))
        steps = steps_of(f, len(speeds), draw(st.sampled_from([1, 32])))
        rows = divide(f.vocabulary, steps.vocabulary, speeds)
        given = (divide_heads(f, steps, speeds), divide(f.mlp, steps.mlp, speeds), rows, rows)
        kept = (count, count, i == 0, i == len(layers) - 1)
        columns = [part if keep else [0] * len(speeds) for part, keep in zip(given, kept, strict=True)]
        stages.append((count, [Share(*counts) for counts in zip(*columns, strict=True)]))
    return replace(f, layers=sum(layers)), stages
