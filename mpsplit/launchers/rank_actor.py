"""One rank's supervisor on its machine: an actor of Ray that starts the rank as a process.

In: the command's arguments. Out: events, in the order in which they came: what the rank printed,
what it wrote to meet the others, its end.

Invariant: the rank ends with its actor, however that one ends (leash.py). Nothing of ray is
imported here, so that a test may drive it without.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mpsplit.launchers.meeting_copies import Copies, News
from mpsplit.leash import leashed
from mpsplit.mpirun import python_command

OUT, WRONG, MEETING, END = "out", "wrong", "meeting", "end"
Event = tuple[str, Any]
LOOK, LOOK_SELDOM = 0.005, 0.05  # seconds between two looks into the folder to meet in
BUSY = 200  # looks without news after which it is seldom looked
HOME = Path(__file__).parents[2]  # where this mpsplit lies


class RankActor:
    def __init__(self, rank: int, ranks: int):
        self.rank, self.ranks = rank, ranks
        self._folder = Path(tempfile.mkdtemp(prefix=f"mpsplit-ray-{rank}-"))
        self._copies = Copies(self._folder)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()

    def begin(self, arguments: list[str], environment: dict[str, str], folder: str) -> str:
        """Starts the rank in `folder`; why not, where that cannot be."""
        if not Path(folder).is_dir():
            return f"there is no folder {folder} on {os.uname().nodename}; mpsplit runs at one path on all machines"
        who = {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.ranks),
            "MPSPLIT_STORE": str(self._folder),
            "PYTHONPATH": ":".join(filter(None, (str(HOME), environment.get("PYTHONPATH")))),
        }
        # whoever called `ray start` may have been a rank himself
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_", "PRTE_"))}
        self._process = leashed(
            python_command(*arguments), family=True, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own | environment | who,
        )  # fmt: skip
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()
        if self.ranks > 1:
            threading.Thread(target=self._tell_news, daemon=True).start()
        return ""

    def events(self) -> list[Event]:
        """Those since the last call, at least one: it is waited for."""
        found = [self._events.get()]
        with suppress(Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    def meet(self, news: News) -> None:
        self._copies.take(news)

    def signal(self, number: int) -> None:
        """To the rank; SIGKILL to all that it started too."""
        if self._process and self._process.poll() is None:
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(self._process.pid, number)
                else:
                    self._process.send_signal(number)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout and process.stderr
        readers = [
            threading.Thread(target=self._read, args=(kind, pipe.fileno()), daemon=True)
            for kind, pipe in ((OUT, process.stdout), (WRONG, process.stderr))
        ]
        for reader in readers:
            reader.start()
        code = process.wait()
        self._ended.set()
        for reader in readers:
            reader.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._events.put((END, code))

    def _read(self, kind: str, pipe: int) -> None:
        while data := os.read(pipe, 65536):
            self._events.put((kind, data))

    def _tell_news(self) -> None:
        """Until this rank has met the others, and taken its own word away."""
        word, said, quiet = self._folder / (f"hello-{self.rank}" if self.rank else "meeting"), False, 0
        while not self._ended.wait(LOOK if quiet < BUSY else LOOK_SELDOM):
            here = word.exists()
            if said and not here:
                return
            said = said or here
            if news := self._copies.news():
                self._events.put((MEETING, news))
            quiet = 0 if news else quiet + 1
