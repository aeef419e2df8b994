"""A text to calibrate with, as tokens. In: a file, the model's tokenizer.json. Out: sequences of at most the context's length.

Invariant: the tokens are the text's, in order and each once, up to a number of them that is enough; so all ranks have the same.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from mpsplit.errors import ConvertError

LENGTH, MOST = 512, 65536  # tokens of a sequence, and of all
FEWEST = 128  # tokens: fewer say nothing of thousands of inputs


def sequences(text: Path, tokenizer: Path, context: int, length: int = LENGTH, most: int = MOST) -> list[list[int]]:
    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConvertError(f"--calibrate {text} cannot be read ({wrong}); give a file of plain text in UTF-8") from None
    tokens = Tokenizer.from_file(str(tokenizer)).encode(written).ids[:most]
    if len(tokens) < FEWEST:
        raise ConvertError(
            f"--calibrate {text} has {len(tokens)} tokens, and {FEWEST} are needed; give a longer text, best of the kind the model will see"
        )
    step = min(length, context)
    return [tokens[i : i + step] for i in range(0, len(tokens), step)]
