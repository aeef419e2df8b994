"""What the cache knows of a text, kept on disk: named prefixes and conversations.

In: names. Out: folders in the package.

    PACKAGE/prefixes/NAME/kept.json     on rank 0's host: the tokens, whose they are, and what
                                        the one who kept them wants to know
    PACKAGE/prefixes/NAME/rank-R.kv     on the host of each rank: keys and values
                                        (extensions/engine/cache_file.h)

Keys and values belong to weights, cut and stored as they are: another package refuses them, one
that differs in its context takes what it has pages for. Invariant: what is loaded only spares work.
An answer is what it would be without.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from mpsplit.errors import RunError
from mpsplit.package.manifest import RANK_FILES, Manifest
from mpsplit.package.whole_files import json_text, read_json, write_json

KEPT = "kept.json"
PREFIXES, SESSIONS = "prefixes", "sessions"  # kinds of what is kept, and their folders
REMEDY = "make it again"
OUTCOMES = {  # of save and load on a rank, as extensions/engine/cache_file.h counts them
    1: "has no such file",
    2: "finds that it belongs to other weights, or to another --kv",
    3: "finds its file damaged",
    4: "cannot write its file; is there room, and may it write?",
}


class Unusable(RunError):
    """What the request names, a prefix or a session, cannot be used."""


@dataclass(frozen=True)
class KeptText:
    """`folder` in the package; `about` is what the one who kept it wants to know."""

    folder: str
    whose: str
    stored: str
    tokens: tuple[int, ...]
    about: dict

    def save(self, package: Path) -> None:
        fields = {"format_version": 1, "whose": self.whose, "stored": self.stored, "about": self.about}
        (package / self.folder).mkdir(parents=True, exist_ok=True)
        write_json(package / self.folder / KEPT, fields | {"tokens": list(self.tokens)})

    @classmethod
    def read(cls, package: Path, folder: str) -> KeptText:
        path = package / folder / KEPT
        if not path.is_file():
            kind, name = folder.split("/")
            others = ", ".join(names(package, kind)) or "none"
            raise Unusable(f"{package} has no {name} among its {kind}; there are: {others}")
        fields = read_json(path, REMEDY)
        try:
            tokens = tuple(int(token) for token in fields["tokens"])
            return cls(folder, str(fields["whose"]), str(fields["stored"]), tokens, dict(fields["about"]))
        except (KeyError, TypeError, ValueError) as wrong:
            raise Unusable(f"{path} is not what was written ({wrong}); {REMEDY}") from None


def weights_id(manifest: Manifest) -> str:
    """64 letters for the weights of all ranks, how they are cut and turned; the context and the
    graphs are not in it."""
    weights = [
        sorted(file.sha256 for file in part.files if Path(file.path).name not in RANK_FILES) for part in manifest.ranks
    ]
    frequencies = list(manifest.rope.inverse_frequencies)
    parts = [manifest.plan.to_json(), weights, frequencies, manifest.rope.scaling, manifest.facts.window]
    return hashlib.sha256(json_text(parts).encode()).hexdigest()


def folder_of(kind: str, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise Unusable(
            f"{name!r} is no name to keep something by; use up to 64 letters, digits, dots, dashes, underscores"
        )
    return f"{kind}/{name}"


def names(package: Path, kind: str) -> list[str]:
    return sorted(path.parent.name for path in (package / kind).glob(f"*/{KEPT}"))


def text_of(kept: KeptText, raw: bool) -> str:
    """The text of a prefix, for such prompts."""
    if kept.about.get("raw") is not raw:
        remedy = "use it with a chat" if raw else "use it with raw prompts"
        kind, other = ("raw prompts", "a system message") if raw else ("a system message", "raw prompts")
        raise Unusable(f"{kept.folder} was made for {other}, not for {kind}; {remedy}")
    return kept.about["text"]


def is_older(package: Path, folder: str, when: float) -> bool:
    """Whether there is anything, and nobody kept or used it since then (time.time())."""
    try:
        return (package / folder / KEPT).stat().st_mtime < when
    except FileNotFoundError:
        return False


def forget(package: Path, folder: str) -> None:
    """On this host."""
    shutil.rmtree(package / folder, ignore_errors=True)


def check_outcomes(outcomes: list[int], folder: str, what: str) -> None:
    """How it went on each rank; refuses with the first one where it did not."""
    for rank, outcome in enumerate(outcomes):
        if outcome:
            raise Unusable(f"{folder} cannot be {what}: rank {rank} {OUTCOMES[outcome]}; {REMEDY}")
