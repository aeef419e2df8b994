"""This very command on its ranks, each under an actor of Ray, to their end.

In: a Need a rank, the command's own arguments. Out: how it Ended, as mpirun.run says it.

Actors start processes and tell what those print. What ranks tell each other goes over our own
communicator: they meet in folders whose few small files are carried from actor to actor
(meeting_copies.py), and from then on Ray has no part in it. Invariant: when one rank fails all end,
and nothing is left in the cluster.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from mpsplit.errors import LaunchError
from mpsplit.launchers.rank_actor import END, MEETING, OUT, WRONG, RankActor
from mpsplit.launchers.rank_places import Bundle, Need, bundles
from mpsplit.launchers.ray_nodes import Node, nodes_of, usable
from mpsplit.launchers.ray_session import joined, last_line
from mpsplit.mpirun import INSISTENT, RANK_FAILED, Ended, Notices, killed_text, silent_text
from mpsplit.progress import TERMINAL

PLACED, BEGUN = 60.0, 120.0  # seconds in which there is room, and in which an actor has started its rank
GRACE = 3.0  # seconds in which a rank that is told to end takes away what is half written
LOST, ASKED = "lost", "asked"  # events beside those of rank_actor.py
VERDICT = 1  # of verify: no failure that must be explained
# of the environment of whoever typed the command; keys stay where they are
PASSED, KEPT = ("MPSPLIT_", "OMP_", "HF_"), ("MPSPLIT_KEY", "MPSPLIT_API_KEY", "MPSPLIT_STORE")


def run(needs: Sequence[Need], arguments: list[str], ends_itself: bool = False) -> Ended:
    """`mpsplit ARGUMENTS`, a rank a Need. `ends_itself`: on a signal each rank gets it, once, and
    all the time that it takes; a second one is the last."""
    events: SimpleQueue[tuple[int, str, Any]] = SimpleQueue()
    numbers = (signal.SIGTERM, signal.SIGINT) if ends_itself else (signal.SIGTERM,)
    with _heard(numbers, lambda number: events.put((0, ASKED, number))), joined(start_one=True) as ray:
        nodes = usable(nodes_of(ray.nodes()))
        asked = bundles(needs, nodes, ray.get_runtime_context().get_node_id())
        with _placed(asked, nodes, events) as (group, places):
            ranks = [_actor(ray, group, rank, bundle, len(needs)) for rank, bundle in enumerate(asked)]
            try:
                return _Watch(ray, ranks, events).run(arguments, _environments(places, nodes))
            finally:
                for actor in ranks:
                    with suppress(ray.exceptions.RayError):
                        ray.kill(actor)


@contextmanager
def _placed(asked: list[Bundle], nodes: Sequence[Node], events: SimpleQueue) -> Iterator[tuple[Any, list[str]]]:
    """One placement group, and by rank the id of its node. A signal ends the wait for it."""
    from ray.util import placement_group, placement_group_table, remove_placement_group

    group = placement_group(asked, strategy="SPREAD")
    try:
        until = time.monotonic() + PLACED
        while not (there := group.wait(1)) and events.empty() and time.monotonic() < until:
            continue
        if not events.empty():
            raise KeyboardInterrupt
        if not there:
            raise LaunchError(
                f"Ray found no room for {len(asked)} ranks within {PLACED:.0f} s, of {_texts(asked)}: others use its"
                f" {len(nodes)} nodes; `ray status` says who"
            )
        place_of = placement_group_table(group)["bundles_to_node_id"]
        yield group, [place_of[rank] for rank in range(len(asked))]
    finally:
        remove_placement_group(group)


def _texts(asked: Sequence[Bundle]) -> str:
    return "; ".join(
        dict.fromkeys(", ".join(f"{name} {amount:,g}" for name, amount in bundle.items()) for bundle in asked)
    )


def _actor(ray: Any, group: Any, rank: int, bundle: Bundle, ranks: int) -> Any:
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    marks = {name: amount for name, amount in bundle.items() if name not in ("CPU", "memory")}
    supervisor = ray.remote(concurrency_groups={"events": 1, "meeting": 1})(RankActor).options(
        num_cpus=bundle["CPU"],
        memory=bundle["memory"],
        resources=marks,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
    )
    return supervisor.remote(rank, ranks)


def _environments(places: Sequence[str], nodes: Sequence[Node]) -> list[dict[str, str]]:
    """By rank. Ranks of one node share its CPUs, unless --threads or OMP_NUM_THREADS say it."""
    cpus = {node.id: node.cpus for node in nodes}
    terminal = {TERMINAL: "1" if sys.stderr.isatty() else "0"}
    given = {name: value for name, value in os.environ.items() if name.startswith(PASSED) and name not in KEPT}
    if "PYTHONPATH" in os.environ:
        given["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return [
        {"OMP_NUM_THREADS": str(max(1, cpus.get(place, 1) // places.count(place))), **terminal, **given}
        for place in places
    ]


@dataclass
class _Watch:
    """The actors by rank, and what became of their ranks: `ended` by rank with a code, None of one
    whose actor is lost."""

    ray: Any
    ranks: Sequence[Any]
    events: SimpleQueue[tuple[int, str, Any]]
    ended: dict[int, int | None] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)  # signals
    failed: int | None = None  # the first rank that did
    until: float | None = None  # when who still runs is ended, by the clock

    def run(self, arguments: list[str], environments: Sequence[dict[str, str]]) -> Ended:
        reading, writing = os.pipe()
        notices = Notices(reading)
        relay = threading.Thread(target=notices.relay, daemon=True)
        relay.start()
        try:
            self._begin(arguments, environments)
            for rank in range(len(self.ranks)):
                threading.Thread(target=self._hear, args=(rank,), daemon=True).start()
            self._turns(writing)
        except KeyboardInterrupt:  # a second one is the last
            self._send(signal.SIGTERM)
            self.until = time.monotonic() + GRACE
            self._turns(writing)
            return Ended(128 + signal.SIGINT, asked=True)
        finally:
            os.close(writing)
            relay.join(5)
            os.close(reading)
        return self._verdict(notices)

    def _begin(self, arguments: list[str], environments: Sequence[dict[str, str]]) -> None:
        folder = os.getcwd()
        begun = [
            actor.begin.remote(arguments, environment, folder)
            for actor, environment in zip(self.ranks, environments, strict=True)
        ]
        for rank, ref in enumerate(begun):
            try:
                why = self.ray.get(ref, timeout=BEGUN)
            except self.ray.exceptions.RayError as wrong:
                raise LaunchError(
                    f"rank {rank} could not be started by Ray ({last_line(wrong)}); each node of its cluster needs"
                    " mpsplit, at the same path as here"
                ) from None
            if why:
                raise LaunchError(f"rank {rank}: {why}")

    def _hear(self, rank: int) -> None:
        """In a thread: what the rank's actor tells, until one of the two ends."""
        actor = self.ranks[rank]
        while True:
            try:
                events = self.ray.get(actor.events.options(concurrency_group="events").remote())
            except Exception:  # killed, its node gone, or our session over: in any case nothing more comes
                self.events.put((rank, LOST, None))
                return
            for kind, data in events:
                if kind == MEETING:
                    self._carry(rank, data)
                    continue
                self.events.put((rank, kind, data))
                if kind == END:
                    return

    def _carry(self, rank: int, news: Any) -> None:
        for other, actor in enumerate(self.ranks):
            if other != rank:
                actor.meet.options(concurrency_group="meeting").remote(news)

    def _turns(self, errors: int) -> None:
        while len(self.ended) < len(self.ranks):
            self._turn(errors)

    def _turn(self, errors: int) -> None:
        """One event, or the end of patience."""
        try:
            left = None if self.until is None else max(0.0, self.until - time.monotonic())
            rank, kind, data = self.events.get(timeout=left)
        except Empty:
            self._insist()
            return
        TURNS[kind](self, rank, data, errors)

    def _out(self, rank: int, data: bytes, errors: int) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    def _wrong(self, rank: int, data: bytes, errors: int) -> None:
        os.write(errors, data)

    def _ask(self, rank: int, number: int, errors: int) -> None:
        self.asked.append(number)
        self._send(number)
        if len(self.asked) == 2:
            self.until = time.monotonic() + INSISTENT

    def _end(self, rank: int, code: int | None, errors: int) -> None:
        """A rank's; the first that fails ends the others."""
        self.ended[rank] = code
        if code != 0 and self.failed is None:
            self.failed = rank
            if not self.asked:
                self._send(signal.SIGTERM)
            self.until = time.monotonic() + GRACE

    def _insist(self) -> None:
        """SIGKILL, and then without waiting for an answer."""
        if self.failed is None:
            self.failed = min(set(range(len(self.ranks))) - set(self.ended))
        self._send(signal.SIGKILL)
        for rank, actor in enumerate(self.ranks):
            if rank not in self.ended:
                self.ray.kill(actor)
        self.until = None  # an actor that is killed is lost at once

    def _send(self, number: int) -> None:
        for rank, actor in enumerate(self.ranks):
            if rank not in self.ended:
                actor.signal.remote(int(number))

    def _verdict(self, notices: Notices) -> Ended:
        if self.failed is None:
            return Ended(0, ready=notices.ready, asked=bool(self.asked))
        code = self.ended[self.failed]
        silent = code not in (0, VERDICT) and not notices.said and not self.asked
        why = self._why(self.failed, code) if silent else ""
        return Ended(_as_shells_count(code), why, notices.ready, bool(self.asked))

    def _why(self, rank: int, code: int | None) -> str:
        if code is None:
            return f"rank {rank} ended with its actor or its Ray node, and the others with it; `ray status` says more"
        if code < 0:
            return killed_text(rank, -code, signal.strsignal(-code) or "unknown")
        return silent_text(rank, code)


TURNS: dict[str, Callable[[_Watch, int, Any, int], None]] = {
    OUT: _Watch._out,
    WRONG: _Watch._wrong,
    END: _Watch._end,
    LOST: lambda watch, rank, _, errors: watch._end(rank, None, errors),
    ASKED: _Watch._ask,
}


def _as_shells_count(code: int | None) -> int:
    if code is None:
        return RANK_FAILED
    return 128 - code if code < 0 else code


@contextmanager
def _heard(numbers: Sequence[int], handle: Callable[[int], None]) -> Iterator[None]:
    """Signals, while the block runs."""
    before = {number: signal.signal(number, lambda number, _: handle(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
