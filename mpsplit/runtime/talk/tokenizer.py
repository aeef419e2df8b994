"""The package's tokenizer, and what is text for it.

In: a package, texts. Out: a Tokenizer of the library, or a refusal.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mpsplit.errors import PackageError, RunError
from mpsplit.package.manifest import TOKENIZER

if TYPE_CHECKING:  # which no --help waits for
    from tokenizers import Tokenizer

HALVES = re.compile("[\ud800-\udfff]")  # of characters: JSON has them, UTF-8 has not


def read_tokenizer(package: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(package / TOKENIZER))
    except Exception as wrong:  # the library raises bare Exceptions
        raise PackageError(f"{package / TOKENIZER} cannot be read ({wrong}); copy it again or convert again") from None


def check_whole(text: str) -> None:
    if half := HALVES.search(text):
        raise RunError(f"the text has half a character, {half[0]!a}; send whole ones")
