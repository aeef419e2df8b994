"""A text to calibrate with, as tokens.

In: a file, the tokenizer.json of a package. Out: a Calibration, or what is wrong with the text.
SHIPPED is a text for those who give none: prose, talk, code and letters in several languages.

Invariant: the tokens are the text's, in order and each once, up to a number of them that is enough;
so all ranks have the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from mpsplit.errors import ConvertError
from mpsplit.package.manifest import PARTITION, TOKENIZER, Manifest
from mpsplit.package.stored.quantisation import BFLOAT
from mpsplit.package.stored.recipe import Recipe
from mpsplit.package.together.package_commit import partition_home
from mpsplit.plan.cuts import linears_of
from mpsplit.plan.model_facts import ModelFacts

# tokens of a sequence, and of all: fewer than some ten for each input of a matrix, and rounding
# follows their noise
LENGTH, MOST = 256, 16384
SHIPPED = Path(__file__).with_name("calibration.txt")
SPEED = 2e10  # float32 operations a second of a core, as torch and the kernels reach them
CHEAP_SECONDS = 240.0  # what nobody needs to ask for
FEWEST = 128  # tokens: fewer say nothing of thousands of inputs
LETTERS = 32  # of a token at most, on average: what lies further on in a text is not looked at


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
        tokens = sequences(text, package / TOKENIZER, partition.facts.context, most=most)
        return cls(method, tokens, hashlib.sha256(text.read_bytes()).hexdigest())

    def __str__(self) -> str:
        return f"{self.method} over {sum(map(len, self.sequences)):,} tokens of the text {self.text[:16]}"


def seconds_of(facts: ModelFacts, cores: int) -> float:
    """What calibrating takes on one machine: the text goes through the layers, its second moments
    are summed, each weight is rounded and judged."""
    heads, kv_heads = (count * facts.head_dim for count in (facts.heads, facts.kv_heads))
    shapes = [(heads + 2 * kv_heads, facts.hidden), (facts.hidden, heads), (2 * facts.mlp, facts.hidden)]
    shapes += [(facts.hidden, facts.mlp)]
    work = sum(2 * MOST * (n * k + k * k) + 6 * n * k * k for n, k in shapes)
    return facts.layers * work / (SPEED * cores)


def why_not_by_default(recipe: Recipe, partition: Manifest, home: Path, processes: int, cores: int) -> str:
    """Why a conversion does not calibrate with SHIPPED by itself; empty where it does."""
    few = sorted({recipe.kind_of(name).bits for name in linears_of(partition.facts)} - {0})
    seconds = seconds_of(partition.facts, cores)
    reasons = {
        "no weight has fewer than 8 bits": not few or few[0] >= 8,
        "the package has no tokenizer": not (home / TOKENIZER).is_file(),
        "the ranks do not run at once": processes != partition.plan.ranks,
        "torch is not here": find_spec("torch") is None,
        f"it would take about {seconds:,.0f} s": seconds > CHEAP_SECONDS,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


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


def sequences(
    text: Path, tokenizer: Path, context: int, length: int = LENGTH, most: int = MOST
) -> tuple[tuple[int, ...], ...]:
    if most < FEWEST:
        raise ConvertError(f"--calibrate-tokens {most} says too little; give {FEWEST} or more")
    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConvertError(f"--calibrate {text} cannot be read ({wrong}); give a file of plain text in UTF-8") from None
    tokens = Tokenizer.from_file(str(tokenizer)).encode(written[: LETTERS * most]).ids[:most]
    if len(tokens) < FEWEST:
        raise ConvertError(
            f"--calibrate {text} has {len(tokens)} tokens, and {FEWEST} are needed; give a longer text, best of the"
            " kind the model will see"
        )
    step = min(length, context)
    return tuple(tuple(tokens[i : i + step]) for i in range(0, len(tokens), step))
