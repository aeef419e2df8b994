"""A GGUF file as a folder with the files that Hugging Face's models have beside their weights.

In: the path of a GGUF file. Out: a folder in the cache with config.json, the tokenizer and the chat
template, made once, and a line that says where the weights are, which stay there.

Invariant: the folder belongs to the file as it was; one that was written to since has another.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from mpsplit.cache_folder import cache
from mpsplit.export.model.gguf.gguf_config import check_linears, config_of
from mpsplit.export.model.gguf.gguf_header import gguf_files, read_gguf
from mpsplit.export.model.gguf.gguf_tokenizer import NoTokenizer, write_tokenizer
from mpsplit.package.manifest import CONFIG
from mpsplit.package.whole_files import json_text
from mpsplit.plan.model_facts import ModelFacts

WHERE = "gguf.json"  # {"file": path}
FORMAT = 1  # another number where the same file gives another folder than before
log = logging.getLogger("mpsplit")


def unpacked(path: Path) -> Path:
    known = [[FORMAT], *([str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in gguf_files(path))]
    folder = cache() / "gguf" / hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32] / path.stem
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            _write(path, Path(scratch) / path.stem)
            try:
                os.rename(Path(scratch) / path.stem, folder)
            except OSError:
                if not folder.is_dir():  # another rank was faster
                    raise
    return folder


def weights_of(folder: Path) -> Path | None:
    """The GGUF file that a folder belongs to; None for other folders."""
    where = folder / WHERE
    return Path(json.loads(where.read_text(encoding="utf-8"))["file"]) if where.is_file() else None


def _write(path: Path, folder: Path) -> None:
    gguf = read_gguf(path)
    config = config_of(gguf)
    check_linears(gguf, ModelFacts.from_config(config))
    folder.mkdir()
    for name, content in ((CONFIG, config), (WHERE, {"file": str(path.resolve())})):
        (folder / name).write_text(json_text(content), encoding="utf-8")
    try:
        write_tokenizer(gguf, folder)
    except NoTokenizer as why:
        log.warning("%s: %s; run the package with --prompt-ids", path, why)
