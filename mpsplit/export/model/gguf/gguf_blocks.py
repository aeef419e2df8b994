"""The blocks of a GGUF file as blocks of our kernels: nothing is rounded again.

In: a GgufCheckpoint. Out: the recipe that it is stored by already, and a Source of that.

Each type has a form: one of our kinds that holds its integers and its scales as they are. What
bytes mean stays gguf-py's to say: with 1 in the place of all scales, and 0 of minimums, its floats
are the integers (gguf_numbers.py).

Invariant: what the kernels unpack is what gguf-py dequantises, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_config import config_of, tensor_names
from mpsplit.export.model.gguf.gguf_header import read_gguf
from mpsplit.export.model.gguf.gguf_numbers import integers
from mpsplit.export.model.gguf.gguf_types import GgufType
from mpsplit.native.cpp import kernels
from mpsplit.package.stored.embedding import block_of, dtype_of, joined
from mpsplit.package.stored.quantisation import BFLOAT, FLOAT, PARTS_BLOCK, Quantisation
from mpsplit.package.stored.recipe import Recipe, Rule, text_of
from mpsplit.package.whole_files import widened
from mpsplit.plan.cuts import Part, linears_of, source_of
from mpsplit.plan.model_facts import ModelFacts

FORMS = {  # by the name of a type
    "F32": FLOAT,
    "F16": FLOAT,
    "BF16": Quantisation.named("bf16", 32),
    "Q4_0": Quantisation.named("i4", 32),
    "Q4_1": Quantisation.named("m4", 32),
    "Q5_0": Quantisation.named("q6", 32),  # 5 bits in 6
    "Q5_1": Quantisation.named("m5", 32),
    "Q8_0": Quantisation.named("q8", 32),
    "IQ4_NL": Quantisation.named("q4", 32),
    "Q2_K": Quantisation.named("k2", PARTS_BLOCK),
    "Q3_K": Quantisation.named("k3", PARTS_BLOCK),
    "Q4_K": Quantisation.named("k4", PARTS_BLOCK),
    "Q5_K": Quantisation.named("k5", PARTS_BLOCK),
    "Q6_K": Quantisation.named("k6", PARTS_BLOCK),
    "IQ4_XS": Quantisation.named("x4", PARTS_BLOCK),
}


def kept_kinds(path: Path) -> dict[str, Quantisation]:
    """How the linears of a file are stored where its blocks are kept."""
    gguf = read_gguf(path)
    facts = ModelFacts.from_config(config_of(gguf))
    types = {weight: gguf.tensors[tensor].kind.name for tensor, weight in tensor_names(gguf).items()}
    return {name: FORMS[types[source_of(name, facts)]] for name in linears_of(facts)}


def recipe_of(kinds: dict[str, Quantisation], asked: Recipe) -> Recipe:
    """`asked`: rules that come after these."""
    default = Counter(kinds.values()).most_common(1)[0][0] if kinds else FLOAT
    rules = tuple(Rule(name.removesuffix(".weight"), how) for name, how in kinds.items())
    return Recipe(default, (*rules, *asked.rules), asked.scales, asked.layout)


class GgufBlocks:
    """A Source. `asked`: rules that name some weights otherwise, which then are rounded as they
    say."""

    def __init__(self, checkpoint: GgufCheckpoint, facts: ModelFacts, asked: Recipe):
        self.checkpoint, self._facts = checkpoint, facts
        linears = linears_of(facts)
        rounded = {name for name in linears if any(rule.names(name) for rule in asked.rules)}
        self._kinds = {name: FORMS[self._type(name).name] for name in linears if name not in rounded}
        self.recipe = recipe_of(self._kinds, asked)
        self.embedding = self._table(asked)

    @property
    def bytes_read(self) -> int:
        return self.checkpoint.bytes_read

    @property
    def text(self) -> str:
        """The recipe in words, for people."""
        types = Counter(self._type(name).name for name in self._kinds)
        rounded = ", ".join(f"{rule.pattern}={text_of(rule.how)}" for rule in self.recipe.rules[len(self._kinds) :])
        return f"the file's own blocks ({_counted(types)}){f', {rounded}' if rounded else ''}"

    def tensor_of(self, weight: str, facts: ModelFacts) -> str:
        """A tied head is stored as a matrix, the embedding as a table, of one tensor."""
        return weight

    def type_of(self, name: str) -> str:
        if name == self._facts.family.embedding:
            return self.embedding
        how = self._kinds.get(name, FLOAT)
        return text_of(how) if how.bits else self.checkpoint.type_of(self._tensor(name))

    def file_of(self, name: str) -> str:
        return self.checkpoint.file_of(self._tensor(name))

    def encoder_needed(self, name: str) -> bool:
        """Whether it comes as numbers."""
        return name not in self._kinds

    def stored(self, name: str, part: Part, start: int, stop: int) -> np.ndarray:
        tensor, how = self._tensor(name), self._kinds.get(name, FLOAT)
        is_table = name == self._facts.family.embedding and block_of(self.embedding) is not None
        if is_table or how.bits not in (0, BFLOAT):
            values, scales = integers(self.checkpoint.blocks(tensor, part, start, stop), self._type(name).name)
            if is_table:
                return joined(values, scales.astype(np.float16))
            return kernels().pack_values(values, scales, how.bits, how.block)
        rows = self.checkpoint.stored(tensor, part, start, stop)
        if not how.bits:
            return rows
        return kernels().pack(widened(rows, self.checkpoint.type_of(tensor)), how.bits, how.block)

    def close(self) -> None:
        self.checkpoint.close()

    def _tensor(self, name: str) -> str:
        return source_of(name, self._facts)

    def _type(self, name: str) -> GgufType:
        return self.checkpoint.tensors[self._tensor(name)].kind

    def _table(self, asked: Recipe) -> str:
        """The type of the embedding's rows, of which 8 bits hold the integers of fewer; what they
        come as, where they are rounded or have more than a scale."""
        name = self._facts.family.embedding
        how = FORMS.get(self._type(name).name, FLOAT)
        comes_as_numbers = asked.embedding is not None or how.bits in (0, BFLOAT) or how.is_given
        return self.checkpoint.type_of(name) if comes_as_numbers else dtype_of(how.block)


def _counted(names: Counter[str]) -> str:
    pairs: Iterable[tuple[str, int]] = names.most_common()
    return ", ".join(f"{count} of {name}" for name, count in pairs)
