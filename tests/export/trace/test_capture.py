"""A trace whose length is a number reads as the one whose length is a symbol, in half the time."""

import pytest

from mpsplit.export.model.model_source import read_config
from mpsplit.export.trace.capture import as_text, capture
from mpsplit.export.trace.slicing import build_whole, shapes_alone, slice_model
from mpsplit.export.trace.trace_inputs import examples
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.shards import even_plan
from tests.cases import thorough
from tests.models import FAMILIES

SOME = ("llama-bias", "qwen3")


@pytest.mark.parametrize("family", [*SOME, *thorough(*(family for family in FAMILIES if family not in SOME))])
def test_the_length_is_found_where_it_stands(model_of, family):
    folder = model_of(family)
    facts = ModelFacts.from_config(read_config(folder))
    stage = slice_model(build_whole(folder), even_plan(facts, 2, 1), 0, facts, shapes_alone)
    symbols, numbers = (as_text(capture(stage, examples(facts)[0], "meta", symbolic)) for symbolic in (True, False))
    assert "call_method[target=size]" in symbols and numbers == symbols
