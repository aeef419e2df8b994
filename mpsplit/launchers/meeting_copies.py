"""A folder to meet in, where machines share none: each rank has its own, and they are kept alike.

In: a folder. Out: what is new in it, as paths and bytes; and the other way round.

Ranks meet by small files (extensions/comm/meet_in_folder.h). Invariant: what came from others is
never told as news, and a file is whole or not there. What goes away is not told: a rank looks only
at files that the newest ones name.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

News = dict[str, bytes | None]  # by path below the folder; None for a folder


class Copies:
    def __init__(self, folder: Path):
        self.folder = folder
        self._known: News = {}
        self._lock = threading.Lock()

    def news(self) -> News:
        """What was written here since the last call."""
        with self._lock:
            here, known = self._read(), self._known
            found = {path: data for path, data in here.items() if path not in known or known[path] != data}
            self._known |= found
        return found

    def take(self, told: News) -> None:
        """What another rank wrote."""
        with self._lock:
            self._known |= told
            for name, data in told.items():
                path = self.folder / name
                (path if data is None else path.parent).mkdir(parents=True, exist_ok=True)
                if data is not None:
                    unfinished = path.with_name(f".{path.name}.copy")
                    unfinished.write_bytes(data)
                    unfinished.rename(path)

    def _read(self) -> News:
        """All that is whole: names with a dot are not yet."""
        found: News = {}
        for folder, inside, files in os.walk(self.folder):
            here = Path(folder).relative_to(self.folder)
            found |= {(here / name).as_posix(): None for name in inside}
            for name in files:
                if "." not in name:
                    try:
                        found[(here / name).as_posix()] = (Path(folder) / name).read_bytes()
                    except FileNotFoundError:
                        continue  # its rank took it away meanwhile
        return found
