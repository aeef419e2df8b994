"""What the run half is told of a tokenizer: which template the model was trained with, and which
ids end an answer."""

import json
import shutil

import pytest

from mpsplit.export.model.tokenizer_files import copy_tokenizer, eos_ids
from mpsplit.package.named_templates import TEMPLATES, guess_template
from tests.models import EXAMPLE


def model_like(folder, marks=(), template=False, generation=None, **config):
    """tiny-vicuna with marks among its tokens."""
    shutil.copytree(EXAMPLE, folder)
    if not template:
        (folder / "chat_template.jinja").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += [
        dict(tokenizer["added_tokens"][0], id=1000 + n, content=mark) for n, mark in enumerate(marks)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, changes in (("config.json", config), ("generation_config.json", generation or {})):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))
    return folder


CHATML, LLAMA_3 = ("<|im_start|>", "<|im_end|>"), ("<|start_header_id|>", "<|eot_id|>")


@pytest.mark.parametrize(
    "name, marks, config, expected",
    [
        ("a", CHATML, {}, "chatml"),
        ("a", CHATML, {"architectures": ["Qwen2ForCausalLM"]}, "qwen"),
        ("a", LLAMA_3, {}, "llama-3"),
        ("vicuna-7b-v1.5-16k", (), {}, "vicuna-v1.5"),
        ("a", (), {"_name_or_path": "lmsys/vicuna-13b-v1.1"}, "vicuna-v1.1"),
        ("models--lmsys--vicuna-33b-v1.3/snapshots/927bd8", (), {}, "vicuna-v1.5"),
        ("vicuna-7b-delta-v0", (), {}, None),
        ("vicuna/a", (), {}, None),
        ("a", (), {}, None),
    ],
)
def test_a_template_is_guessed_where_that_is_certain(tmp_path, name, marks, config, expected):
    model = model_like(tmp_path / name, marks, **config)
    out = tmp_path / "out"
    out.mkdir()
    names = [path.name for path in copy_tokenizer(model, out)]
    assert ("chat_template.jinja" in names) == bool(expected)
    if expected:
        assert (out / "chat_template.jinja").read_text() == TEMPLATES[expected]


def test_the_tokenizers_own_template_wins(tmp_path):
    model = model_like(tmp_path / "vicuna-7b-v1.5", CHATML, template=True)
    out = tmp_path / "out"
    out.mkdir()
    copy_tokenizer(model, out)
    assert (out / "chat_template.jinja").read_bytes() == (EXAMPLE / "chat_template.jinja").read_bytes()
    assert eos_ids(model, {}) == (2,)


def test_a_package_is_copied_with_what_it_has(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, source in ((first, model_like(tmp_path / "a")), (second, first)):
        folder.mkdir()
        assert sorted(path.name for path in copy_tokenizer(source, folder)) == ["special_tokens.json", "tokenizer.json"]


@pytest.mark.parametrize(
    "generation, config, expected",
    [
        ({"eos_token_id": [5, 7, 9]}, {"eos_token_id": 2}, (5, 7, 9)),
        ({"eos_token_id": 5}, {"eos_token_id": [2, 3]}, (5,)),
        ({"eos_token_id": None}, {"eos_token_id": [2, 3]}, (2, 3)),
        ({"eos_token_id": None}, {}, ()),
    ],
)
def test_ids_that_end_an_answer(tmp_path, generation, config, expected):
    model = model_like(tmp_path / "a", template=True, generation=generation)
    assert eos_ids(model, config) == expected
    (model / "generation_config.json").unlink()
    assert eos_ids(model, {"eos_token_id": 4}) == (4,)


def test_a_guessed_template_brings_its_end_of_a_turn(tmp_path):
    assert eos_ids(model_like(tmp_path / "a", LLAMA_3), {}) == (2, 1001)
    assert eos_ids(model_like(tmp_path / "b", CHATML, generation={"eos_token_id": [1001]}), {}) == (1001,)


def test_the_guess_of_names():
    assert guess_template(["Wizard-Vicuna"], "", ()) is None
    assert guess_template(["x", "TheBloke/Vicuna-13B-v1.5-AWQ"], "", ()) == "vicuna-v1.5"
