"""The tokenizer's files, for the run half.

In: a model directory. Out: tokenizer.json and, where it is known, chat_template.jinja.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path

from mpsplit.package.manifest import SPECIAL, TEMPLATE, TOKENIZER, TOKENIZER_FILES
from mpsplit.package.named_templates import TEMPLATES, TURN_ENDS, guess_template

log = logging.getLogger("mpsplit")


def copy_tokenizer(model: Path, package: Path, talks: bool = True) -> list[Path]:
    """Writes what there is of a tokenizer into the package; a model without one is run with
    --prompt-ids. Of another package in the place of the model its files as they are. `talks`: one
    converses with it, and needs a template."""
    if (model / SPECIAL).is_file():
        there = [name for name in TOKENIZER_FILES if (model / name).is_file()]
        return [Path(shutil.copyfile(model / name, package / name)) for name in there]
    with tempfile.TemporaryDirectory() as scratch:
        source = model if (model / TOKENIZER).is_file() else _made_fast(model, Path(scratch))
        if source is None:
            return []
        shutil.copyfile(source / TOKENIZER, package / TOKENIZER)
        settings = _settings(source)
        template = (_own_template(source, settings) or _guessed_template(model, source)) if talks else None
    special = {key: _token_text(settings.get(key)) for key in ("bos_token", "eos_token")}
    (package / SPECIAL).write_text(json.dumps(special, ensure_ascii=False) + "\n", encoding="utf-8")
    if not template:
        return [package / TOKENIZER, package / SPECIAL]
    (package / TEMPLATE).write_text(template, encoding="utf-8", newline="")
    return [package / TOKENIZER, package / TEMPLATE, package / SPECIAL]


def eos_ids(model: Path, config: dict) -> tuple[int, ...]:
    """The ids that end an answer: generation_config.json before config.json, and the end of a turn
    in a template that was guessed."""
    eos = _json(model / "generation_config.json").get("eos_token_id")
    eos = config.get("eos_token_id") if eos is None else eos
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not _own_template(model, _settings(model)):
        template = _guess(model, model)
        end = _added_tokens(model).get(TURN_ENDS[template]) if template and template in TURN_ENDS else None
        ids = [*ids, *([] if end is None or end in ids else [end])]
    return tuple(ids)


def _made_fast(model: Path, scratch: Path) -> Path | None:
    """A tokenizer.json made by transformers from an older tokenizer (tokenizer.model, vocab.json
    and merges.txt)."""
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
    return _json(source / "tokenizer_config.json")


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _own_template(source: Path, settings: dict) -> str | None:
    beside = source / TEMPLATE
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def _guessed_template(model: Path, source: Path) -> str | None:
    name = _guess(model, source)
    if name:
        log.warning("%s has no chat template: prompts will use %s's", model, name)
        return TEMPLATES[name]
    log.warning("%s has no chat template: give run and chat --template, one of %s", model, ", ".join(TEMPLATES))
    return None


def _guess(model: Path, source: Path) -> str | None:
    config = _json(model / "config.json")
    path = model.resolve()
    # of the hub's cache
    repository = path.parents[1].name if path.parent.name == "snapshots" else ""
    names = (path.name, repository, config.get("_name_or_path") or "")
    return guess_template(names, (config.get("architectures") or [""])[0], _added_tokens(source))


def _added_tokens(source: Path) -> dict[str, int]:
    """The tokens that are no pieces of text."""
    return {token["content"]: token["id"] for token in _json(source / TOKENIZER).get("added_tokens", ())}


def _token_text(token: str | dict[str, str] | None) -> str:
    """A special token is a string or {"content": string}."""
    return token["content"] if isinstance(token, dict) else token or ""
