"""Whatever a GGUF file's bytes are, there is a plan, or one line that says why not."""

import json
import subprocess
import sys

import pytest

from tests.ggufs import write_gguf
from tests.models import make_model

TEXTS = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "c"]
SENTENCE_PIECE = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": TEXTS,
                  "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
                  "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0],
                  "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
                  "tokenizer.chat_template": "{{ messages }}"}  # fmt: skip
BYTE_LEVEL = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe",
              "tokenizer.ggml.tokens": ["a", "b", "ab", "<e>"], "tokenizer.ggml.token_type": [1, 1, 1, 3],
              "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 3, "general.alignment": 64,
              "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0,
              "llama.rope.scaling.original_context_length": 64}  # fmt: skip
BY_32 = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
BY_256 = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
WIDE = dict(hidden_size=256, intermediate_size=256, num_attention_heads=8, num_key_value_heads=2, head_dim=32,
            num_hidden_layers=1, vocab_size=32)  # fmt: skip


def by_turns(kinds):
    seen = []
    return lambda name: kinds[(seen.append(name) or len(seen)) % len(kinds)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of every type, with each kind of tokenizer, tied and not."""
    folder = tmp_path_factory.mktemp("mutants")
    for name, family, kinds, changes, settings in (
        ("a", "llama", BY_32, {}, BYTE_LEVEL),
        ("b", "llama-mha-tied", BY_256, WIDE | {"num_key_value_heads": 8}, SENTENCE_PIECE),
        ("c", "qwen2-tied", BY_32[::-1], {}, {}),
        ("d", "granite", ("Q8_0",), {}, {}),
    ):
        model = make_model(family, folder / f"of-{name}", changes=changes)
        write_gguf(model, folder / f"{name}.gguf", by_turns(kinds), settings, drawn=True)
    return folder


@pytest.mark.seconds(3000)
def test_a_mutant_is_planned_or_refused_in_one_line(files, request):
    count = 10_000 if request.config.getoption("--thorough") else 300
    command = [sys.executable, "-m", "tests.export.model.gguf.mutants", str(files), "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert not found["wrong"], found["wrong"][:20]
    assert found["plans"] > count / 20 and found["refusals"] > count / 4
