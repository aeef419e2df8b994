"""What the cache knows of a text, kept on disk: named prefixes and conversations.

In: names. Out: folders in the package.

    PACKAGE/prefixes/NAME/               a prefix
    PACKAGE/sessions/OWNER/NAME/         a conversation; OWNER is a hash of an API key, or a word
        kept.json             on rank 0's host: the tokens, whose they are, which segments there
                              are, and what the one who kept them wants to know
        rank-R.SAVE.kv        on the host of each rank: keys and values of a segment
                              (extensions/engine/cache_file.h)

A save is a transaction. Every rank writes a file of a new name; when all have told that their disks
have it, rank 0 writes kept.json anew, whole or not at all. A file that no kept.json names is
nothing. Keys and values belong to weights, cut and stored as they are: another package computes
again, one that differs in its context takes what it has pages for. Invariant: what is loaded only
spares work. An answer is what it would be without.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mpsplit.errors import PackageError, RunError
from mpsplit.package.manifest import RANK_FILES, Manifest
from mpsplit.package.whole_files import json_text, read_json, write_json
from mpsplit.runtime.kept.segments import Segment, check

KEPT = "kept.json"
ASIDE = "kept.json.damaged"  # a kept.json that could not be read; nobody reads it
OLD, VERSION = 1, 2  # of an old one the text still counts, and no file
PREFIXES, SESSIONS = "prefixes", "sessions"  # kinds of what is kept, and their folders
CHAT, ANYONE = "chat", "anyone"  # owners: `mpsplit chat`, and who calls without a key
REMEDY = "make it again"


class Unusable(RunError):
    """What is kept under a name, a prefix or a session, cannot be used."""


class NothingKept(Unusable):
    """Nothing is kept under the name."""


class Damaged(Unusable):
    """kept.json is not what was written."""


@dataclass(frozen=True)
class KeptText:
    """`folder` in the package; `about` is what the one who kept it wants to know."""

    folder: str
    whose: str
    stored: str
    tokens: tuple[int, ...]
    about: dict
    segments: tuple[Segment, ...] = ()

    @property
    def bytes(self) -> int:
        """On all ranks."""
        return sum(segment.bytes for segment in self.segments)

    @property
    def saves(self) -> list[str]:
        """Whose files stay."""
        return [segment.save for segment in self.segments]

    def save(self, package: Path) -> None:
        """The commit."""
        fields = {"format_version": VERSION, "whose": self.whose, "stored": self.stored, "about": self.about}
        segments = [segment.to_json() for segment in self.segments]
        (package / self.folder).mkdir(parents=True, exist_ok=True)
        write_json(package / self.folder / KEPT, fields | {"segments": segments, "tokens": list(self.tokens)})

    @classmethod
    def read(cls, package: Path, folder: str) -> KeptText:
        path = package / folder / KEPT
        if not path.is_file():
            if path.with_name(ASIDE).is_file():
                raise Unusable(f"{folder} was damaged, and was set aside")
            within, name = folder.rsplit("/", 1)
            others = ", ".join(names(package, within)) or "none"
            raise NothingKept(f"the package has no {name} among its {folder.split('/')[0]}; there are: {others}")
        try:
            fields = read_json(path, REMEDY)
            if (version := fields["format_version"]) not in (OLD, VERSION):
                raise Unusable(f"{folder} was kept by another mpsplit; {REMEDY}")
            tokens = tuple(int(token) for token in fields["tokens"])
            segments = tuple(Segment(**segment) for segment in fields.get("segments", ()))
            if version == VERSION:
                check(segments, tokens)
            kept = cls(folder, str(fields["whose"]), str(fields["stored"]), tokens, dict(fields["about"]), segments)
        except (PackageError, KeyError, TypeError, ValueError, OverflowError) as wrong:
            reason = str(wrong).replace(str(path), KEPT).replace(f"; {REMEDY}", "")
            raise Damaged(f"{folder} is damaged ({reason}); {REMEDY}") from None
        return kept

    def check_whose(self, whose: str, stored: str) -> None:
        """Whether a package of these weights can use it, whose cache stores so."""
        for own, wanted, what in ((self.whose, whose, "other weights"), (self.stored, stored, "another --kv")):
            if own != wanted:
                raise Unusable(f"{self.folder} belongs to {what}; {REMEDY}")


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
    """`kind`: PREFIXES, or sessions_of an owner."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise Unusable(
            f"{name!r} is no name to keep something by; use up to 64 letters, digits, dots, dashes, underscores"
        )
    return f"{kind}/{name}"


def sessions_of(owner: str) -> str:
    return f"{SESSIONS}/{owner}"


def names(package: Path, kind: str) -> list[str]:
    return sorted(path.parent.name for path in (package / kind).glob(f"*/{KEPT}"))


def text_of(kept: KeptText, raw: bool) -> str:
    """The text of a prefix, for such prompts."""
    if kept.about.get("raw") is not raw:
        remedy = "use it with a chat" if raw else "use it with raw prompts"
        kind, other = ("raw prompts", "a system message") if raw else ("a system message", "raw prompts")
        raise Unusable(f"{kept.folder} was made for {other}, not for {kind}; {remedy}")
    if not isinstance(text := kept.about.get("text"), str):
        raise Damaged(f"{kept.folder} says no text; {REMEDY}")
    return text


def set_aside(package: Path, folder: str, segments: Sequence[Segment] | None) -> None:
    """The segments of a text are of no use, and their files go. kept.json says so, if it still
    names them; None: it cannot be read."""
    if segments is None:
        (package / folder / KEPT).replace(package / folder / ASIDE)
        return
    kept = KeptText.read(package, folder)
    if kept.segments == tuple(segments):
        replace(kept, segments=()).save(package)


def forget(package: Path, folder: str) -> None:
    """kept.json goes first, for it says that the rest is there. The folder goes with whoever
    removes the last file in it, this one or a rank."""
    for name in (KEPT, ASIDE):
        (package / folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        (package / folder).rmdir()


def forget_on_this_host(package: Path, folder: str) -> None:
    """With the files of all ranks that are here."""
    forget(package, folder)
    shutil.rmtree(package / folder, ignore_errors=True)
