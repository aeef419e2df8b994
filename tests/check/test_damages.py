"""Every kind of damage is found and told where it is; sound packages of every kind pass."""

import json
from dataclasses import replace

import pytest

from mpsplit.check.gate import MOST_KL, Limits, failures
from mpsplit.check.layer_cost import LayerCost
from mpsplit.check.stored_weights import found_weights, told
from mpsplit.check.verification import Trial, stored_kind, verify
from mpsplit.comm import Alone
from mpsplit.package.agreement import Agreement, Distance
from mpsplit.package.manifest import Manifest
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.runtime.load import load_loop
from tests.check.damages import DAMAGES, damaged
from tests.missing import needs
from tests.models import EXAMPLE, FAMILIES
from tests.running import mpsplit

pytestmark = [needs("the kernels"), needs("the engine")]
# what no weight shows -> the part that parts first
COMPUTED = {
    "keys as values": "layer 2 (attention)",
    "a tenth of rope's theta, all ranks": "layer 0 (attention)",
    "a norm's epsilon 1, all ranks": "layer 2 (attention)",
    "another scale of attention, all ranks": "layer 2 (attention)",
}
# what is damaged -> the weight that is named
STORED = {
    "a weight file zeroed": "model.layers.2.",
    "the file of another layer": "model.layers.2.",
    "two ranks' files swapped": "model.layers.2.",
    "one matrix's rows permuted": "model.layers.2.mlp.down_proj.weight",
    "one scale doubled": "model.layers.2.self_attn.q_proj.weight",
    "a bit in a scale's exponent": "model.layers.2.self_attn.q_proj.weight",
    "the highest bit of one weight": "model.layers.2.self_attn.q_proj.weight",
    "a norm zeroed, all ranks": "model.layers.2.post_attention_layernorm.weight",
    "a bit in a norm's exponent": "model.layers.2.post_attention_layernorm.weight",
    "the embedding zeroed": "model.embed_tokens.weight",
}


def wrong_weights(package, folder):
    manifest = Manifest.load(package)
    return [
        line
        for rank in range(manifest.plan.ranks)
        for line in told([found for found in found_weights(package, manifest, folder, rank) if not found.holds])
    ]


def test_the_table_has_every_damage():
    assert COMPUTED.keys() | STORED.keys() == DAMAGES.keys()


@pytest.mark.parametrize("name", STORED)
def test_a_damaged_weight_is_named_with_its_rank_and_file(stored_as, tmp_path, name):
    package = damaged(stored_as("q4", 2), name, tmp_path)
    lines = wrong_weights(package, EXAMPLE)
    files = {line.partition(" in ")[2].split()[0] for line in lines}
    assert lines and all(STORED[name] in line and "is allowed" in line for line in lines)
    assert all((package / file).exists() for file in files)
    assert {line[:6] for line in lines} == {
        f"rank {rank}" for rank in ({0, 1} if "ranks" in name else {0} if "embedding" in name else {1})
    }


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed_wrongly_is_named_though_every_weight_is_right(stored_as, tmp_path, name):
    package = damaged(stored_as("q4", 1), name, tmp_path)
    assert not wrong_weights(package, EXAMPLE)
    manifest = Manifest.load(package)
    trial = Trial(package, EXAMPLE, layers=True)
    trial = replace(trial, kind=stored_kind(manifest, trial, Alone()))
    loop = load_loop(package, Alone())
    found = verify(loop, Alone(), trial)
    loop.engine.close()
    said = failures(found, Limits.of(found))
    assert any(f"first parts at {COMPUTED[name]}" in line and "partition and convert again" in line for line in said), (
        said
    )


@pytest.mark.parametrize("kind", ("f32", "bf16", "q8", "q6", "q4", "i4", "q3", "q2"))
def test_weights_of_every_kind_are_within_their_bounds(stored_as, kind):
    package = stored_as(kind, 1)
    assert not wrong_weights(package, EXAMPLE)
    expected = {"f32": "exact", "bf16": "bf16"}.get(kind, "rounded")
    found = [f for f in found_weights(package, Manifest.load(package), EXAMPLE, 0) if f.kind == expected]
    assert len(found) == (48 if kind == "f32" else 36)
    if kind != "f32":  # a package that is not rounded at all would show nothing
        # steps of a table are not alike
        assert max(f.off for f in found) > (0.2 if kind in ("q4", "q3", "q2") else 0.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_stores_its_weights_as_they_are(package_of, model_of, family):
    assert not wrong_weights(package_of(family, 1, 1), model_of(family))


def test_a_weight_that_the_package_lacks_is_named(package_of, model_of):
    """The graph of a rank has no biases."""
    manifest, bare = Manifest.load(package_of("llama-bias", 1, 1)), package_of("llama", 1, 1)
    lines = told([f for f in found_weights(bare, manifest, model_of("llama-bias"), 0) if not f.kind])
    assert lines == ["rank 0: model.layers.0.mlp.down_proj.bias (and 20 more) is not in the package; convert again"]


def test_limits_follow_from_plain_rounding_on_both_sides():
    plain = Distance(kl=0.1, top1=0.8, perplexity_ratio=1.2, uncertain=0.02)
    found = Agreement("native", "q4", "0", 400, 9.0, 0.1, 0.5, 0.8, 0.8, 1.2, rounding=plain)
    limits = Limits.of(found)
    assert limits.tolerance is None and limits.max_kl == pytest.approx(0.2 * MOST_KL["q4"], abs=1e-5)
    assert limits.min_top1 == pytest.approx(0.8 - 4 * 0.02 - 0.01)
    assert 0.87 < limits.min_perplexity_ratio < 0.89 and 1.34 < limits.max_perplexity_ratio < 1.36
    assert not failures(found, limits)
    (said,) = failures(replace(found, perplexity_ratio=0.8), limits)
    assert said.startswith("perplexity 0.8 times the original's, --min-perplexity-ratio asks for 0.8")
    (said,) = failures(replace(found, kl=0.21), limits)
    assert "KL 2.10e-01" in said


def test_layers_are_compared_where_that_is_cheap_or_asked_for():
    small = Manifest.load(EXAMPLE.parents[1] / "tests" / "fixtures" / "package-0.1").facts
    large = ModelFacts("LlamaForCausalLM", 8192, 80, 64, 8, 128, 28672, 128256, 8192, False)
    assert LayerCost.of(small, 1, None).compared and not LayerCost.of(small, 1, False).compared
    cost = LayerCost.of(large, 2, None)
    assert not cost.compared and cost.seconds > 60 and LayerCost.of(large, 2, True).compared
    assert str(cost).startswith("not layer by layer: that takes about 890 s and 732 MB on rank 0")


def test_the_command_says_where_and_how_much(stored_as, tmp_path):
    package = damaged(stored_as("q4", 2), "one scale doubled", tmp_path)
    said = mpsplit("verify", package, EXAMPLE, code=1)
    assert said.startswith("DIFFERENT: rank 1: model.layers.2.self_attn.q_proj.weight in rank-1/weights/")
    data = json.loads(mpsplit("verify", stored_as("q4", 2), EXAMPLE, "--json"))
    assert data["same"] and data["layers"]["compared"] and data["limits"]["min_perplexity_ratio"] < 1
    assert {w["kind"] for w in data["weights"]} == {"rounded", "exact"} and 0 < data["rounding"]["kl"] < 0.3
