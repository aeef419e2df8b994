"""The tokenizer's files, for the run half. In: a model directory. Out: tokenizer.json and chat_template.jinja in the package."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

from mpsplit.package.manifest import SPECIAL, TEMPLATE, TOKENIZER, TOKENIZER_FILES

log = logging.getLogger("mpsplit")
# Vicuna's own releases carry no template; this is the one of FastChat for v1.5
VICUNA_V1_5 = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}"
    "{%- else -%}{%- set system = 'A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions.' -%}{%- set turns = messages -%}{%- endif -%}"
    "{{ bos_token + system + ' ' }}{%- for message in turns -%}{%- if message['role'] == 'user' -%}"
    "{{ 'USER: ' + message['content'] + ' ' }}{%- else -%}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}"
)


def copy_tokenizer(model: Path, package: Path) -> list[Path]:
    """Writes what there is of a tokenizer into the package; a model without one is run with --prompt-ids. Of another package in the
    place of the model its files as they are."""
    if (model / SPECIAL).is_file():
        return [Path(shutil.copyfile(model / name, package / name)) for name in TOKENIZER_FILES]
    with tempfile.TemporaryDirectory() as scratch:
        source = model
        if not (model / TOKENIZER).is_file():
            source = _made_fast(model, Path(scratch))
        if source is None:
            return []
        shutil.copyfile(source / TOKENIZER, package / TOKENIZER)
        settings = _settings(source)
        template = _template(source, settings)
    with open(package / TEMPLATE, "w", encoding="utf-8") as file:
        file.write(template)
    special = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token")}
    (package / SPECIAL).write_text(json.dumps(special, ensure_ascii=False) + "\n", encoding="utf-8")
    return [package / TOKENIZER, package / TEMPLATE, package / SPECIAL]


def eos_ids(model: Path, config: dict) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json before config.json."""
    path = model / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = generation.get("eos_token_id", config.get("eos_token_id"))
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def _made_fast(model: Path, scratch: Path) -> Path | None:
    """A tokenizer.json made by transformers from an older tokenizer (tokenizer.model, vocab.json and merges.txt)."""
    if not any((model / name).is_file() for name in ("tokenizer.model", "vocab.json", "tokenizer_config.json")):
        log.info("%s has no tokenizer: run the package with --prompt-ids", model)
        return None
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(model).save_pretrained(scratch)
    except Exception as wrong:  # transformers raises whatever the old format's reader raises
        log.warning("the tokenizer in %s cannot be converted (%s): run the package with --prompt-ids", model, wrong)
        return None
    return scratch if (scratch / TOKENIZER).is_file() else None


def _settings(source: Path) -> dict:
    path = source / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _template(source: Path, settings: dict) -> str:
    beside = source / TEMPLATE
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = next((entry["template"] for entry in found if entry["name"] == "default"), None)
    if not found:
        log.warning("%s has no chat template: prompts will use Vicuna v1.5's", source)
    return found or VICUNA_V1_5


def _token_text(token: object) -> str:
    """A special token is a string or {"content": string}."""
    return token["content"] if isinstance(token, dict) else token or ""
