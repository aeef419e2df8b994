"""Where a model comes from and what its config says. In: MODEL as the user typed it. Out: a local directory and a dict. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from mpsplit.errors import ModelError


def find_model(model: str) -> Path:
    """The local directory of MODEL: itself, or a hub id downloaded."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"{path} has no config.json; MODEL is a Hugging Face directory with config, weights and tokenizer"
            )
        return path
    looks_local = path.exists() or model.count("/") != 1 or model.startswith((".", "/", "~"))
    if looks_local:
        raise ModelError(
            f"there is no model directory {model}; give a local Hugging Face directory or a hub id such as org/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model, allow_patterns=["*.json", "*.safetensors", "tokenizer*", "*.jinja", "pytorch_model*.bin"]
            )
        )
    except Exception as wrong:  # the hub client raises many kinds; each means that the model cannot be had
        reason = str(wrong).strip().splitlines()[0]
        raise ModelError(f"{model} is neither a directory here nor to be had from the hub ({reason})") from None


def read_config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as wrong:
        raise ModelError(f"{folder / 'config.json'} is not JSON ({wrong}); download it again") from None
