"""Prefixes and sessions for HTTP.

In: names of clients. Out: texts, and folders of the package that spare the loop work.

A session keeps what the cache knows of a conversation, also over a restart, as long as the limits
allow (runtime/kept/session_counts.py). The client still sends all messages, as OpenAI's clients do,
and gets the answer that it would get without. Each key has sessions of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mpsplit.runtime.kept.kept_texts import (
    ANYONE,
    KEPT,
    PREFIXES,
    KeptText,
    folder_of,
    sessions_of,
    text_of,
)
from mpsplit.serve.service.served_loop import ServedLoop


@dataclass(frozen=True)
class ClientTexts:
    loop: ServedLoop

    def prefix(self, name: str, raw: bool) -> str:
        """Its text."""
        return text_of(KeptText.read(self._package, self.of_prefix(name)), raw)

    def of_prefix(self, name: str) -> str:
        return folder_of(PREFIXES, name)

    def session(self, name: str, key: bytes) -> str:
        """Its folder, whether it is there or not; `key`: of who calls, empty without one."""
        owner = f"key-{hashlib.sha256(key).hexdigest()[:16]}" if key else ANYONE
        return folder_of(sessions_of(owner), name)

    def warm(self, prefix: str | None, session: str) -> str:
        """The folder that knows most of a conversation: of both its session, which begins with the
        prefix, as soon as that is kept."""
        if prefix and not (session and (self._package / session / KEPT).is_file()):
            return self.of_prefix(prefix)
        return session

    @property
    def _package(self) -> Path:
        assert self.loop.package, "what is served is a package"
        return self.loop.package
