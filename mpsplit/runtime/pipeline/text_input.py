"""A text as the model's input, by the package's tokenizer.

In: a text, or two; or token ids. Out: input_ids, and token_type_ids where the model takes them:
int64 [1, length].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpsplit.errors import RunError
from mpsplit.package.manifest import TOKENIZER
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.talk.tokenizer import check_whole, read_tokenizer

IDS, TYPES_OF_IDS = "input_ids", "token_type_ids"
Encoded = tuple[Sequence[int], Sequence[int]]  # ids, and to which of two texts each belongs


class TextInput:
    def __init__(self, package: Path, pipeline: Pipeline):
        if IDS not in pipeline.inputs:
            raise RunError(f"--text: this model takes {', '.join(pipeline.inputs)}, no text")
        if not (package / TOKENIZER).is_file():
            raise RunError(f"{package} has no tokenizer; give token ids with --tensor x.npz, as {IDS}")
        self.tokenizer = read_tokenizer(package)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.pipeline, self.sentences = pipeline, pipeline.sentences

    @property
    def longest(self) -> int:
        """Tokens that a text may have: what the model has room for, or was made for."""
        room = self.pipeline.longest or self._fixed
        return min(room, (self.sentences and self.sentences.longest) or room)

    def __call__(self, text: str, pair: str | None = None) -> dict[str, np.ndarray]:
        [encoded] = self.encoded([text] if pair is None else [(text, pair)])
        return self.given(*encoded)

    def encoded(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoded]:
        """Of each text, or pair of texts, as long as it may be."""
        lasting = [self._plain(text) for text in texts]
        return [(found.ids, found.type_ids) for found in self.tokenizer.encode_batch_fast(lasting)]

    def given(self, ids: Sequence[int], types: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        if not 1 <= len(ids) <= self.longest:
            raise RunError(
                f"the text has {len(ids)} tokens, the model takes 1 to {self.longest}; give it a shorter one"
            )
        arrays = {IDS: np.array([ids], np.int64), TYPES_OF_IDS: np.array([types or [0] * len(ids)], np.int64)}
        return {name: arrays[name] for name in self.pipeline.inputs if name in arrays}

    def word(self, token: int) -> str:
        """The text of a token, in quotes: it may begin with a blank."""
        return json.dumps(self.tokenizer.decode([token], skip_special_tokens=False), ensure_ascii=False)

    def _plain(self, text: str | tuple[str, str]) -> str | tuple[str, str]:
        """As the model was taught to read texts."""
        if isinstance(text, tuple):
            return self._plain(text[0]), self._plain(text[1])  # type: ignore[return-value]  # of two texts
        check_whole(text)
        if self.sentences:
            text = self.sentences.prompt + (text.lower() if self.sentences.lower else text)
        return text

    @property
    def _fixed(self) -> int:
        """The one length that a pipeline without a growing one takes."""
        size = self.pipeline.values[IDS].shape[-1]
        return size if isinstance(size, int) else 0
