"""What a model in stages makes of texts: embeddings, or scores of pairs.

In: a package. Out: a TextModel: from texts to inputs, and from outputs to plain data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.package.manifest import CONFIG
from mpsplit.package.stages.pipeline import Pipeline
from mpsplit.runtime.pipeline.nets.stage_net import Arrays
from mpsplit.runtime.pipeline.output_words import STATES, gives_embedding, gives_score, score
from mpsplit.runtime.pipeline.pooling import embedding
from mpsplit.runtime.pipeline.text_input import TextInput

EMBED, RERANK = "embed", "rerank"


class TextModel:
    """`task`: EMBED or RERANK. `size` of an embedding, 0 where there is none. `vocabulary`: ids
    below it are tokens."""

    def __init__(self, package: Path, pipeline: Pipeline):
        self.task = EMBED if gives_embedding(pipeline) else RERANK if gives_score(pipeline) else ""
        if not self.task:
            raise RunError(
                f"{package} gives {', '.join(pipeline.outputs)}: served are encoders, for embeddings, and"
                " cross-encoders of one label; use `mpsplit run`"
            )
        self.read, self.sentences = TextInput(package, pipeline), pipeline.sentences
        hidden = pipeline.values[pipeline.outputs[STATES]].shape[-1] if self.task == EMBED else 0
        assert isinstance(hidden, int), "the model's width is a number"
        self.size = hidden * (len(self.sentences.pooling) if self.sentences else 1)
        self.vocabulary: int = json.loads((package / CONFIG).read_text(encoding="utf-8")).get("vocab_size", 0)

    @property
    def longest(self) -> int:
        """Tokens of a text, or of a pair."""
        return self.read.longest

    def inputs(self, texts: Sequence[str | tuple[str, str]]) -> list[Arrays]:
        """Of each text or pair; refuses one that is too long, with its number."""
        return [self._input(number, *encoded) for number, encoded in enumerate(self.read.encoded(texts))]

    def of_ids(self, prompts: Sequence[Sequence[int]]) -> list[Arrays]:
        """As they stand: the tokens that begin and end a text among them."""
        for number, ids in enumerate(prompts):
            if wrong := [token for token in ids if not 0 <= token < self.vocabulary]:
                raise RunError(
                    f"input {number} has token {wrong[0]}, which is not in the vocabulary of {self.vocabulary}"
                )
        return [self._input(number, ids) for number, ids in enumerate(prompts)]

    def embedding(self, outputs: Arrays) -> list[float]:
        vector: list[float] = embedding(outputs[STATES][0], self.sentences).tolist()
        return vector

    def score(self, outputs: Arrays) -> float:
        return score(outputs)

    def _input(self, number: int, ids: Sequence[int], types: Sequence[int] | None = None) -> Arrays:
        try:
            return self.read.given(ids, types)
        except RunError as wrong:
            raise RunError(f"input {number}: {wrong}") from None


def tokens_of(inputs: Sequence[Arrays]) -> int:
    return sum(next(iter(given.values())).size for given in inputs)
