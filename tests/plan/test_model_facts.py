import pytest

from mpsplit.errors import ModelError
from mpsplit.plan.model_facts import ModelFacts

LLAMA = dict(
    architectures=["LlamaForCausalLM"], hidden_size=64, num_hidden_layers=2, num_attention_heads=8,
    intermediate_size=96, vocab_size=131, max_position_embeddings=128,
)  # fmt: skip


def test_what_old_configs_leave_out_has_its_old_meaning():
    facts = ModelFacts.from_config(LLAMA)
    assert (facts.kv_heads, facts.head_dim, facts.tied, facts.window) == (8, 8, False, 0)


def test_what_a_config_tells_is_believed():
    told = dict(num_key_value_heads=2, head_dim=16, tie_word_embeddings=True)
    facts = ModelFacts.from_config(LLAMA | told)
    assert (facts.kv_heads, facts.head_dim, facts.tied) == (2, 16, True)


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(
        ModelError, match=r"GPT2LMHeadModel is not supported; supported are .*LlamaForCausalLM.*Qwen3ForCausalLM"
    ):
        ModelFacts.from_config(LLAMA | {"architectures": ["GPT2LMHeadModel"]})


def test_a_config_without_a_size_names_it():
    config = dict(LLAMA)
    del config["intermediate_size"]
    with pytest.raises(ModelError, match="config.json has no 'intermediate_size'"):
        ModelFacts.from_config(config)


@pytest.mark.parametrize("where", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", ["rope_type", "type"])
def test_rotary_embeddings_that_change_with_the_length_are_refused(where, name):
    with pytest.raises(ModelError, match="longrope"):
        ModelFacts.from_config(LLAMA | {where: {name: "longrope"}})


@pytest.mark.parametrize(
    "changes, window",
    [
        (dict(architectures=["MistralForCausalLM"], sliding_window=11), 11),
        (dict(architectures=["MistralForCausalLM"], sliding_window=None), 0),
        # never reached in a context of 128
        (dict(architectures=["MistralForCausalLM"], sliding_window=4096), 0),
        (dict(architectures=["Qwen2ForCausalLM"], sliding_window=11, use_sliding_window=False), 0),
        (dict(architectures=["Qwen2ForCausalLM"], sliding_window=11, use_sliding_window=True), 11),
    ],
)
def test_sliding_windows(changes, window):
    assert ModelFacts.from_config(LLAMA | changes).window == window


def test_mixed_windows_are_refused():
    mixed = dict(architectures=["Qwen2ForCausalLM"], sliding_window=11, use_sliding_window=True)
    with pytest.raises(ModelError, match="layers mix full_attention and sliding_attention"):
        ModelFacts.from_config(LLAMA | mixed | {"layer_types": ["full_attention", "sliding_attention"]})
