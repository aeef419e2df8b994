"""Recipes: which pattern names which weight, what is refused, and the way through the manifest."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsplit.errors import ConvertError
from mpsplit.package.stored.quantisation import BLOCKS, KINDS, Quantisation
from mpsplit.package.stored.recipe import LAYOUTS, SCALES, Recipe, Rule, text_of
from mpsplit.plan.model_facts import ModelFacts

LINEARS = [
    f"model.layers.{layer}.{name}.weight"
    for layer in range(12)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
] + ["lm_head.weight"]


@pytest.mark.parametrize(
    "pattern, named",
    [
        ("lm_head", {"lm_head.weight"}),
        ("mlp.down_proj", {name for name in LINEARS if "down_proj" in name}),
        ("layers.1", {name for name in LINEARS if ".1." in name}),
        ("layers.0.*", {name for name in LINEARS if ".0." in name}),
        ("layers.1?.mlp", {name for name in LINEARS if ".1" in name and ".1." not in name and "mlp" in name}),
        ("*_proj", set(LINEARS[:-1])),
        ("model.layers.3.mlp.up_proj", {"model.layers.3.mlp.up_proj.weight"}),
        ("embed", set()),
        ("proj", set()),
        ("head", set()),
    ],
)
def test_a_pattern_names_whole_words(pattern, named):
    assert {name for name in LINEARS if Rule(pattern, Quantisation()).names(name)} == named


def test_the_last_pattern_decides():
    recipe = Recipe.parse("q4", 32, "mlp.down_proj=q6, layers.0.*=q8/64,embed=q8", "mse")
    assert recipe.kind_of("model.layers.0.mlp.down_proj.weight") == Quantisation(8, 64)
    assert recipe.kind_of("model.layers.1.mlp.down_proj.weight") == Quantisation(6, 32)
    assert recipe.kind_of("lm_head.weight") == Quantisation(20, 32)
    assert recipe.embedding == Quantisation(8, 32) and Recipe.parse("q4", 32).embedding is None
    recipe.check(LINEARS, 64)
    assert Recipe.parse("q4", 32, "*=q6").embedding is None, "a star stands for linears"


@pytest.mark.parametrize(
    "kind, overrides, head, one",
    [
        ("f32", "", "f32/64", True),
        ("bf16", "", "bf16/32", True),
        ("q8", "", "q8/64", True),
        ("q6", "", "q8/64", True),
        ("q4", "", "q8/64", True),
        ("q4", "lm_head=q4", "q4/64", True),
        ("q4", "lm_head=q6/32", "q6/32", True),
        ("q4", "*=q4", "q4/64", True),
        ("q4", "mlp.up_proj=q6", "q8/64", True),
        ("q4", "embed=q8/32", "q8/32", True),
        ("q4", "embed=q8,lm_head=q4", "q4/64", False),
        ("q8", "embed=q8/32", "q8/64", False),
        ("f32", "embed=q8", "f32/64", False),
    ],
)
def test_a_tied_head_has_8_bits_or_what_is_asked(kind, overrides, head, one):
    recipe = Recipe.parse(kind, 64, overrides).for_tied("lm_head.weight")
    assert (text_of(recipe.kind_of("lm_head.weight")), recipe.one_kind("lm_head.weight")) == (head, one)
    assert recipe.kind_of("model.layers.0.mlp.down_proj.weight") == Recipe.parse(kind, 64, overrides).kind_of(
        "model.layers.0.mlp.down_proj.weight"
    )


SMOL = ModelFacts("LlamaForCausalLM", 576, 30, 9, 3, 64, 1536, 49152, 8192, True)


@pytest.mark.parametrize(
    "kind, overrides, changed, value, query",
    [
        ("q4", "", {}, "q6/32", "q4/32"),
        ("q4", "v_proj=q4", {}, "q4/32", "q4/32"),
        ("q4", "*=q8", {}, "q8/32", "q8/32"),
        ("q6", "", {}, "q6/32", "q6/32"),
        ("f32", "", {}, "f32/32", "f32/32"),
        ("q3", "", {}, "q4/32", "q3/32"),
        ("q2", "", {}, "q4/32", "q2/32"),
        ("q4", "", {"kv_heads": 9}, "q4/32", "q4/32"),  # nobody shares them: they are too many
    ],
)
def test_keys_and_values_that_are_shared_have_more_bits(kind, overrides, changed, value, query):
    facts = replace(SMOL, **changed)
    recipe = Recipe.parse(kind, 32, overrides).for_shared_heads(facts)
    found = [text_of(recipe.kind_of(f"model.layers.0.self_attn.{name}_proj.weight")) for name in "vq"]
    assert found == [value, query]
    weights = {"q": 9, "k": 3, "v": 3, "o": 9}
    if not changed and not overrides and kind == "q4":
        bits = [
            (recipe.kind_of(f"layers.0.self_attn.{n}_proj.weight").stored_bits + 0.5, 64 * w)
            for n, w in weights.items()
        ]
        bits += [(4.5, 3 * 1536)]
        assert sum(b * w for b, w in bits) / sum(w for _, w in bits) <= 4.65


@pytest.mark.parametrize(
    "overrides, said",
    [
        ("lm_head", "write PATTERN=KIND"),
        ("lm_head=", "write PATTERN=KIND"),
        ("=q8", "write PATTERN=KIND"),
        ("lm_head=q5", "kinds are f32, bf16, q8, k6, q6, m5, k5, m4, k4, q4, x4, i4, k3, q3, k2, q2"),
        ("lm_head=q8/48", "blocks 32, 64, 128"),
        ("lm_head=q8/x", "is no kind of weight"),
        ("mlp.dwn_proj=q8", r"mlp.dwn_proj=q8 names no weight; there are embed, self_attn.q_proj, .*lm_head"),
        ("embed=q4", "rows of the embedding are stored as q8"),
        ("embed=q8/128", "rows of 64 are no multiple of the block of 128"),
    ],
)
def test_what_is_refused(overrides, said):
    with pytest.raises(ConvertError, match=said):
        Recipe.parse("q4", 32, overrides).check(LINEARS, 64)


def test_scales_that_do_not_exist():
    with pytest.raises(ConvertError, match="--scales best: there are minmax and mse"):
        Recipe.parse("q4", 32, scales="best")


def test_layouts():
    with pytest.raises(ConvertError, match="--layout nonsense: there are native and ncnn"):
        Recipe.parse("q4", 32, layout="nonsense")
    for kind, overrides in (("bf16", ""), ("q4", "lm_head=bf16")):
        with pytest.raises(ConvertError, match="ncnn's own layout has no bfloat16; use q8, q6, q4 or f32"):
            Recipe.parse(kind, 32, overrides, layout="ncnn")
    with pytest.raises(ConvertError, match="ncnn's own layout has no 3 bits; use q8, q6, q4 or f32"):
        Recipe.parse("q3", 32, "lm_head=q8", layout="ncnn")
    for kind, overrides in (("m4", ""), ("q4", "lm_head=m5"), ("k6", "")):
        with pytest.raises(ConvertError, match="blocks of a GGUF file are kept as; ask for f32, bf16, q8, q6, q4"):
            Recipe.parse(kind, 32, overrides)
    ncnn = Recipe.parse("q4", 64, "lm_head=q8,up_proj=q4/32", layout="ncnn")
    assert text_of(ncnn.default) == "i4/64" and text_of(ncnn.rules[1].how) == "i4/32", "ncnn knows no table"
    assert (
        str(Recipe.parse("f32", 32, "lm_head=q8", layout="ncnn")) == "f32/32, lm_head=q8/32, minmax scales, ncnn layout"
    )


kinds = st.builds(Quantisation.named, st.sampled_from(list(KINDS)), st.sampled_from(BLOCKS))
patterns = st.text("abz.*?_0", min_size=1, max_size=12)
recipes = st.builds(
    Recipe,
    kinds,
    st.lists(st.builds(Rule, patterns, kinds), max_size=4).map(tuple),
    st.sampled_from(SCALES),
    st.sampled_from(LAYOUTS),
)


@given(recipes)
def test_json_there_and_back(recipe):
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_what_a_manifest_tells_has_its_kinds():
    told = Recipe.parse("q4", 32, "head=q8/64,layers.0.*=f32", scales="mse")
    read = Recipe.of_text(str(told))
    assert (read.default, read.rules) == (told.default, told.rules)
    assert Recipe.of_text(str(Recipe())) == Recipe()
