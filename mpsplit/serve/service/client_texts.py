"""Prefixes and sessions for HTTP.

In: names of clients. Out: texts, and folders of the package that spare the loop work.

A session keeps what the cache knows of a conversation, also over a restart, until nobody has asked
for it for so long; the client still sends all messages, as OpenAI's clients do, and gets the answer
that it would get without.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mpsplit.runtime.kept.kept_texts import KEPT, PREFIXES, SESSIONS, KeptText, folder_of, is_older, names, text_of
from mpsplit.serve.service.served_loop import ServedLoop

HOUR = 3600.0


@dataclass(frozen=True)
class ClientTexts:
    """`seconds` that a session is kept after somebody asked for it."""

    loop: ServedLoop
    seconds: float = HOUR

    def prefix(self, name: str, raw: bool) -> str:
        """Its text."""
        return text_of(KeptText.read(self._package, self.of_prefix(name)), raw)

    def of_prefix(self, name: str) -> str:
        return folder_of(PREFIXES, name)

    def session(self, name: str) -> str:
        """Its folder, whether it is there or not; the loop forgets those that are too old."""
        folder_of(SESSIONS, name)  # refuses what is no name
        for kept_name in names(self._package, SESSIONS):
            folder = f"{SESSIONS}/{kept_name}"
            if kept_name.startswith(OF_HTTP) and is_older(self._package, folder, self._too_old):
                self.loop.forget(folder, self._too_old)
        return f"{SESSIONS}/{OF_HTTP}{name}"

    def of_session(self, folder: str) -> str:
        """The folder, where there is a session that is not too old, and it is young again;
        otherwise nothing."""
        if is_older(self._package, folder, self._too_old):
            return ""
        try:
            os.utime(self._package / folder / KEPT)
        except FileNotFoundError:
            return ""
        return folder

    @property
    def _package(self) -> Path:
        assert self.loop.package, "what is served is a package"
        return self.loop.package

    @property
    def _too_old(self) -> float:
        return time.time() - self.seconds


# before the names of sessions, so that nobody reads or replaces those of `mpsplit chat`
OF_HTTP = "http-"
