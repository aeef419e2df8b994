"""Who may write into a folder: one process at a time.

In: a folder. Out: a lock, or a message that says who has it. Invariant: it ends with its process,
however that ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from mpsplit.errors import RunError

LOCK = ".lock"  # in the folder; it stays there, and says who was the last


class InUse(RunError):
    """Another process has the lock."""


class FolderLock:
    """Made for the folder, with those above it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BlockingIOError:
            who = os.pread(self._file, 200, 0).decode(errors="replace") or "another process"
            self.release()
            raise InUse(f"{who} writes there; try again when it has ended") from None
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        with suppress(OSError):  # of what was not written; it is for people alone
            os.close(self._file)
