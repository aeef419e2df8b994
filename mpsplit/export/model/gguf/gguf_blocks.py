"""The blocks of a GGUF file as blocks of our kernels: nothing is rounded again.

In: a GgufCheckpoint. Out: the recipe that it is stored by already, and a Source of that.

A type has a form where one of our kinds holds its integers and its scales as they are. The scale, a
float16, stands first in a block, then the minimum, where there is one; with 1 and 0 in their
places, gguf-py's floats are the integers.

Invariant: what the kernels unpack is what gguf-py dequantises, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from mpsplit.errors import ConvertError
from mpsplit.export.model.gguf.gguf_checkpoint import GgufCheckpoint
from mpsplit.export.model.gguf.gguf_types import GgufType, floats
from mpsplit.native.cpp import kernels
from mpsplit.package.stored.embedding import block_of, dtype_of, joined
from mpsplit.package.stored.quantisation import BFLOAT, FLOAT, ROUNDED, Quantisation
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
}
SCALE = np.float16
UNIT = np.array([1, 0], SCALE)  # the scale and the minimum that leave the integers


def integers(blocks: np.ndarray, kind: GgufType) -> tuple[np.ndarray, np.ndarray]:
    """int8 [rows, k] and float32 scales [rows, blocks] of rows of blocks, uint8 [rows, bytes]; with
    minimums [rows, 2 blocks], each beside its scale."""
    each = blocks.reshape(len(blocks), -1, kind.bytes).copy()
    unit = UNIT[: FORMS[kind.name].numbers].view(np.uint8)
    scales = np.ascontiguousarray(each[..., : len(unit)]).view(SCALE).astype(np.float32)
    each[..., : len(unit)] = unit
    return floats(each.reshape(blocks.shape), kind).astype(np.int8), scales.reshape(len(blocks), -1)


class GgufBlocks:
    """A Source. `asked`: rules that name some weights otherwise, which then are rounded as they
    say."""

    def __init__(self, checkpoint: GgufCheckpoint, facts: ModelFacts, asked: Recipe):
        self.checkpoint, self._facts = checkpoint, facts
        linears = linears_of(facts)
        rounded = {name for name in linears if any(rule.names(name) for rule in asked.rules)}
        self._kinds = {name: self._form(name) for name in linears if name not in rounded}
        default = Counter(self._kinds.values()).most_common(1)[0][0] if self._kinds else FLOAT
        rules = tuple(Rule(name.removesuffix(".weight"), how) for name, how in self._kinds.items())
        self.recipe = Recipe(default, (*rules, *asked.rules), asked.scales, asked.layout)
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
            values, scales = integers(self.checkpoint.blocks(tensor, part, start, stop), self._type(name))
            if is_table:
                return joined(values, scales.astype(SCALE))
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

    def _form(self, name: str) -> Quantisation:
        kind = self._type(name).name
        if kind not in FORMS:
            raise ConvertError(
                f"{name} is stored as {kind} in {self.checkpoint.place}, whose blocks are not read as they are; those"
                f" of {', '.join(FORMS)} are. Convert it with --quant ({', '.join(ROUNDED)})"
            )
        return FORMS[kind]

    def _table(self, asked: Recipe) -> str:
        """The type of the embedding's rows, of which 8 bits hold the integers of fewer; what they
        come as, where they are rounded or have minimums."""
        name = self._facts.family.embedding
        how = FORMS.get(self._type(name).name, FLOAT)
        comes_as_numbers = asked.embedding is not None or how.bits in (0, BFLOAT) or how.has_minimum
        return self.checkpoint.type_of(name) if comes_as_numbers else dtype_of(how.block)


def _counted(names: Counter[str]) -> str:
    pairs: Iterable[tuple[str, int]] = names.most_common()
    return ", ".join(f"{count} of {name}" for name, count in pairs)
