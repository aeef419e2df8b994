"""Prefixes and sessions for HTTP. In: names of clients. Out: texts, and folders of the package that spare the loop work.

A session keeps what the cache knows of a conversation, also over a restart, until nobody has asked for it for so long; the client still sends
all messages, as OpenAI's clients do, and gets the answer that it would get without.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mpsplit.runtime.kept import KEPT, PREFIXES, SESSIONS, Kept, folder_of, forget, names, text_of

HOUR = 3600.0


@dataclass(frozen=True)
class Keeping:
    """`seconds` that a session is kept after its last answer."""

    package: Path
    seconds: float = HOUR

    def prefix(self, name: str, raw: bool) -> str:
        """Its text."""
        return text_of(Kept.read(self.package, self.of_prefix(name)), raw)

    def of_prefix(self, name: str) -> str:
        return folder_of(PREFIXES, name)

    def session(self, name: str) -> str:
        """Its folder, whether it is there or not; those that are too old are gone."""
        for other in names(self.package, SESSIONS):
            folder = folder_of(SESSIONS, other)
            told = self.package / folder / KEPT
            if other.startswith(OF_HTTP) and time.time() - told.stat().st_mtime > self.seconds:
                forget(self.package, folder)
        return folder_of(SESSIONS, OF_HTTP + name)

    def has(self, folder: str) -> bool:
        return bool(folder) and (self.package / folder / KEPT).is_file()


OF_HTTP = "http-"  # before the names of sessions, so that nobody reads or replaces those of `mpsplit chat`
