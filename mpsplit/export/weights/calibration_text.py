"""A text to calibrate with, as tokens.

In: a file, the tokenizer.json of a package. Out: a Calibration, or what is wrong with the text.
SHIPPED is a text for those who give none: prose, talk, code and letters, in several languages.

Invariant: the tokens are the text's, in order and each once, up to a number of them that is enough;
so all ranks have the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from mpsplit.errors import ConvertError
from mpsplit.package.manifest import PARTITION, TOKENIZER, Manifest
from mpsplit.package.stored.quantisation import BFLOAT
from mpsplit.package.stored.recipe import METHODS, Recipe
from mpsplit.package.together.package_commit import partition_home
from mpsplit.plan.cuts import linears_of
from mpsplit.plan.model_facts import ModelFacts

SHIPPED = Path(__file__).with_name("calibration.txt")
# tokens of a sequence, and of all: fewer than some ten for each input of a matrix, and rounding
# follows their noise
LENGTH, MOST = 256, 16384
FEWEST = 128  # tokens: fewer say nothing of thousands of inputs
LETTERS = 32  # of a token at most, on average: what lies further on in a text is not looked at
SPEED = 2e10  # float32 operations a second of a core, as torch and the kernels reach them
CHEAP_SECONDS = 240.0  # what nobody needs to ask for


@dataclass(frozen=True)
class Calibration:
    """`method` is one of recipe.METHODS, `text` the sha256 of the file."""

    method: str
    sequences: tuple[tuple[int, ...], ...]
    text: str

    @classmethod
    def of(cls, text: Path, package: Path, method: str, most: int) -> Calibration:
        package = partition_home(package)
        partition = Manifest.load(package, PARTITION)
        if not (package / TOKENIZER).is_file():
            raise ConvertError(
                f"--calibrate {text}: {package} has no tokenizer to read it with; "
                "put tokenizer.json into the model's directory and partition again"
            )
        if most < FEWEST:
            raise ConvertError(f"--calibrate-tokens {most} says too little; give {FEWEST} or more")
        tokens = tokens_of(text, package / TOKENIZER, most)
        if len(tokens) < FEWEST:
            raise ConvertError(
                f"--calibrate {text} has {len(tokens)} tokens, and {FEWEST} are needed; give a longer text, best of the"
                " kind the model will see"
            )
        return cls.with_tokens(method, tokens, partition.facts.context, text)

    @classmethod
    def with_tokens(cls, method: str, tokens: Sequence[int], context: int, text: Path) -> Calibration:
        return cls(method, sequences(tokens, context), hashlib.sha256(text.read_bytes()).hexdigest())

    def __str__(self) -> str:
        return f"{self.method} over {sum(map(len, self.sequences)):,} tokens of the text {self.text[:16]}"


def seconds_of(facts: ModelFacts, tokens: int, cores: int) -> float:
    """What calibrating takes on so many cores: the text goes through the layers, its second moments
    are summed, each weight is rounded and judged."""
    heads, kv_heads = (count * facts.head_dim for count in (facts.heads, facts.kv_heads))
    shapes = [(heads + 2 * kv_heads, facts.hidden), (facts.hidden, heads), (2 * facts.mlp, facts.hidden)]
    shapes += [(facts.hidden, facts.mlp)]
    work = sum(2 * tokens * (n * k + k * k) + 6 * n * k * k for n, k in shapes)
    return facts.layers * work / (SPEED * cores)


def by_default(partition: Manifest, home: Path, processes: int, cores: int) -> tuple[Calibration | None, str]:
    """With SHIPPED, or why not. `home`: where the partition lies; `cores`: of all processes."""
    if not (home / TOKENIZER).is_file():
        return None, "the package has no tokenizer"
    if processes != partition.plan.ranks:
        return None, f"{processes} process does not run all {partition.plan.ranks} ranks at once"
    if find_spec("torch") is None:
        return None, "torch is not installed"
    tokens = tokens_of(SHIPPED, home / TOKENIZER, MOST)
    if len(tokens) < FEWEST:
        return None, f"its tokenizer makes {len(tokens)} tokens of the text"
    if (seconds := seconds_of(partition.facts, len(tokens), cores)) > CHEAP_SECONDS:
        return None, f"it would take about {seconds:,.0f} s; --calibrate FILE does it all the same"
    return Calibration.with_tokens(METHODS[0], tokens, partition.facts.context, SHIPPED), ""


def check_calibration(recipe: Recipe, partition: Manifest, processes: int) -> None:
    """Whether calibrating has a point, and the ranks to do it."""
    kinds = [recipe.kind_of(name) for name in linears_of(partition.facts)]
    if all(how.bits in (0, BFLOAT) for how in kinds):
        raise ConvertError(
            f"--calibrate has nothing to do where all weights are {' or '.join(sorted({how.kind for how in kinds}))}; "
            "give --quant q8, q6 or q4 with it, or leave it out"
        )
    ranks = partition.plan.ranks
    if processes != ranks:
        raise ConvertError(
            f"--calibrate runs the model on all of its {ranks} ranks at once, and this is {processes} process; "
            f"use `mpirun -np {ranks}`, or leave --serial out"
        )


def tokens_of(text: Path, tokenizer: Path, most: int) -> list[int]:
    """The first ones of the text."""
    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConvertError(f"--calibrate {text} cannot be read ({wrong}); give a file of plain text in UTF-8") from None
    return Tokenizer.from_file(str(tokenizer)).encode(written[: LETTERS * most]).ids[:most]


def sequences(tokens: Sequence[int], context: int, length: int = LENGTH) -> tuple[tuple[int, ...], ...]:
    step = min(length, context)
    return tuple(tuple(tokens[i : i + step]) for i in range(0, len(tokens), step))
