"""The token loop over two real ranks, with the face that fake_loop.py has: what the server's tests
ask of one, they ask of the other.

In: a package of two ranks. Out: a RealLoop, rank 0 in this process; the other rank is a process of
its own, with Python or without. Invariant: when the block is left, that one has ended well and said
nothing.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpsplit.comm import Native
from mpsplit.native import cpp
from mpsplit.package.manifest import package_number
from mpsplit.package.sealed.opened import ENVIRONMENT
from mpsplit.runtime.load import load_engine, load_package_text
from mpsplit.runtime.loop.loop_protocol import Listener, Request, Ticket
from mpsplit.runtime.loop.orders import greet
from mpsplit.runtime.loop.token_loop import TokenLoop
from tests.running import rank_environment

FOLLOW = """
import sys
from pathlib import Path
from mpsplit.comm import world
from mpsplit.runtime.load import load_loop
load_loop(Path(sys.argv[1]), world()).follow()
"""
FOLLOWERS = {
    "Python": lambda package: [sys.executable, "-c", FOLLOW, package],
    "mpsplit-rank": lambda package: [cpp.folder() / "mpsplit-rank", package, "--threads", "1"],
}


class RealLoop(TokenLoop):
    """`seconds`: that each turn takes longer; `requests`: all that were taken."""

    def __init__(self, package: Path, comm: Native, places: int, waiting: int, seconds: float):
        engine = load_engine(package, comm)
        greet(engine, comm, package=package_number(package))
        text = load_package_text(package, engine.manifest, ENVIRONMENT)
        super().__init__(engine, comm, text, most=places, waiting=waiting, package=package)
        self.seconds = seconds
        self.requests: list[Request] = []

    def submit(self, request: Request, listener: Listener) -> Ticket:
        ticket = super().submit(request, listener)
        self.requests.append(request)
        return ticket

    def turn(self) -> bool:
        if self.running:
            time.sleep(self.seconds)
        return super().turn()

    def idle(self) -> bool:
        """Whether nothing runs or waits, after a while at most, and every page has come back."""
        for _ in itertools.repeat(None, 2000):
            if not (self.running or self.saving or len(self._waiting)):
                return self.ranks.in_step and self.pages.used == 0 and self.pages.add_up([])
            time.sleep(0.01)
        return False


@contextmanager
def real_loop(
    package: Path, store: Path, follower: str = "Python", places: int = 4, waiting: int = 8, seconds: float = 0.0
) -> Iterator[RealLoop]:
    """`store`: where the ranks meet."""
    other = subprocess.Popen(
        list(map(str, FOLLOWERS[follower](package))), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=rank_environment(RANK="1", WORLD_SIZE="2", MPSPLIT_STORE=str(store)),
    )  # fmt: skip
    try:
        loop = RealLoop(package, Native.gloo(0, 2, str(store)), places, waiting, seconds)
        yield loop
        loop.end()
        said = other.communicate(timeout=20)
        assert other.returncode == 0 and said == ("", ""), (other.returncode, said)
    finally:
        other.kill()
        other.communicate()
