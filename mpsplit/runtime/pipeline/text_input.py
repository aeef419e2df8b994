"""A text as the model's input, by the package's tokenizer.

In: a text. Out: input_ids, and token_type_ids where the model takes them: int64 [1, length].
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mpsplit.errors import RunError
from mpsplit.package.manifest import TOKENIZER
from mpsplit.package.stages.pipeline import Pipeline

IDS, TYPES_OF_IDS = "input_ids", "token_type_ids"


class TextInput:
    def __init__(self, package: Path, pipeline: Pipeline):
        if IDS not in pipeline.inputs:
            raise RunError(f"--text: this model takes {', '.join(pipeline.inputs)}, no text")
        if not (package / TOKENIZER).is_file():
            raise RunError(f"{package} has no tokenizer; give token ids with --tensor x.npz, as {IDS}")
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(package / TOKENIZER))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.pipeline = pipeline

    def __call__(self, text: str, pair: str | None = None) -> dict[str, np.ndarray]:
        encoded = self.tokenizer.encode(text, pair)
        longest = self.pipeline.longest or self._fixed
        if len(encoded.ids) > longest or not encoded.ids:
            raise RunError(
                f"the text has {len(encoded.ids)} tokens, the model takes 1 to {longest}; give it a shorter one"
            )
        given = {IDS: np.array([encoded.ids], np.int64), TYPES_OF_IDS: np.array([encoded.type_ids], np.int64)}
        return {name: given[name] for name in self.pipeline.inputs if name in given}

    def word(self, token: int) -> str:
        """The text of a token, in quotes: it may begin with a blank."""
        return json.dumps(self.tokenizer.decode([token], skip_special_tokens=False), ensure_ascii=False)

    @property
    def _fixed(self) -> int:
        """The one length that a pipeline without a growing one takes."""
        size = self.pipeline.values[IDS].shape[-1]
        return size if isinstance(size, int) else 0
