"""As much of Ray as watching ranks takes: actors are threads of this process, and may be killed."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from mpsplit.launchers.rank_actor import RankActor


class RayError(Exception):
    pass


@dataclass
class Method:
    actor: FakeActor
    name: str

    def options(self, **_) -> Method:
        return self

    def remote(self, *arguments) -> Future:
        return self.actor.pool.submit(getattr(self.actor.inside, self.name), *arguments)


@dataclass
class FakeActor:
    inside: RankActor
    killed: bool = False
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)


class FakeRay:
    class exceptions:
        RayError = RayError

    def __init__(self, ranks: int):
        self.actors = [FakeActor(RankActor(rank, ranks)) for rank in range(ranks)]

    def get(self, future: Future, timeout: float | None = None):
        return future.result(timeout or 60)

    def kill(self, actor: FakeActor) -> None:
        actor.killed = True
        actor.inside.signal(signal.SIGKILL)
