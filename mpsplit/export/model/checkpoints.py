"""The checkpoint of a model, of whichever kind its files are.

In: a folder that find_model gave. Out: a Checkpoint.
"""

from __future__ import annotations

from pathlib import Path

from mpsplit.export.model.checkpoint import Checkpoint
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_folder import weights_of


def checkpoint_of(folder: Path) -> Checkpoint:
    gguf = weights_of(folder)
    return GgufCheckpoint(gguf) if gguf else Checkpoint(folder)
