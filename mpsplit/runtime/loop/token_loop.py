"""The token loop: requests in, tokens out, several requests at once.

It runs on rank 0; the others follow its orders (orders.py).

A turn is one step of every rank's engine: a token of each request that is answering, and pieces of
the prompts of those that have just come. The ranks with rows of the head send their candidates to
rank 0, which chooses. Requests join and leave between turns; what one is answered does not depend
on who else is there. Whoever needs a page when there is none left waits again, and goes on later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from mpsplit.comm import Communicator
from mpsplit.errors import MpsplitError, RunError
from mpsplit.runtime.choose.answers import Wish
from mpsplit.runtime.choose.candidates import Answer
from mpsplit.runtime.engine.engine_protocol import CACHES, Engine, Span
from mpsplit.runtime.engine.pages import PAGE, UNUSED, Pages, pages_of
from mpsplit.runtime.kept.cache_on_disk import CacheOnDisk
from mpsplit.runtime.kept.kept_texts import PREFIXES
from mpsplit.runtime.kept.saves import POLL, Save
from mpsplit.runtime.loop.any_loop import REPORTED, AnyLoop
from mpsplit.runtime.loop.faults import nobodys, telling_all
from mpsplit.runtime.loop.follow import follow
from mpsplit.runtime.loop.led_ranks import Ranks
from mpsplit.runtime.loop.live_request import LiveRequest
from mpsplit.runtime.loop.loop_protocol import Generation, Listener, LoopLoad, Piece, Request, Ticket
from mpsplit.runtime.loop.order_numbers import MOST, Question
from mpsplit.runtime.talk.text import Text

BESIDE = 32  # rows of prompts in a step in which others get tokens: so long they wait at most


class TokenLoop(AnyLoop[LiveRequest]):
    """`most` requests run at once, and `waiting` wait; `package` is where prefixes and
    conversations are kept. `live` is everywhere a request that waits or runs."""

    def __init__(
        self,
        engine: Engine,
        comm: Communicator,
        text: Text | None,
        chunk: int = 128,
        most: int = 8,
        waiting: int = 64,
        package: Path | None = None,
    ):
        super().__init__(comm, [shard.stage for shard in engine.manifest.plan.shards], waiting)
        self.engine, self.comm, self.text, self.chunk, self.most = engine, comm, text, chunk, most
        self.facts, self.eos = engine.manifest.facts, engine.manifest.eos
        self.ranks = Ranks(engine, comm)
        self.pages, self.stored = Pages(pages_of(self.facts.context)), CACHES[0]
        self.unused_seconds, self._forgot_at = UNUSED, 0.0
        self.package = package
        self.on_disk = CacheOnDisk(self.ranks, package, most)
        self.running: list[LiveRequest] = []  # the longest there first
        self.saving: list[LiveRequest] = []  # answered, and not yet told so

    # -- from any thread --------------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener) -> Ticket:
        request.check(self.facts, self.text is not None)
        if request.warm or request.saves:
            self.on_disk.check()
        return self._take_in(LiveRequest(request, listener, self.text))

    def load(self) -> LoopLoad:
        pages, running = self.pages, sum(not live.cancelled for live in list(self.running))
        return LoopLoad(running, self._waiting.wanted, pages.used, len(pages.kept), pages.count, PAGE)

    # -- rank 0 -----------------------------------------------------------------------------------

    def reserve(self, tokens: int, stored: str = "f32") -> None:
        """Before the first request: a cache for so many tokens of all requests together."""
        if tokens < self.facts.context:
            raise RunError(
                f"a cache of {tokens} tokens does not hold one request of the context, {self.facts.context} tokens;"
                " give it as many at least"
            )
        if tokens > MOST:
            raise RunError(f"a cache of {tokens} tokens is out of range; there may be {MOST} at most")
        pages = pages_of(tokens)
        self.ranks.reserve(pages, stored)  # which knows whether there is memory
        self.pages, self.stored = Pages(pages), stored

    def generate(self, request: Request, on_text: Callable[[str], None] = lambda piece: None) -> Generation:
        """Answers one request, and turns until it is done."""
        ends: list[Generation | MpsplitError] = []
        self.submit(request, lambda event: on_text(event.text) if isinstance(event, Piece) else ends.append(event))
        while not ends:
            self.turn()
            self._let_disks_work()
        if isinstance(ends[0], MpsplitError):
            raise ends[0]
        return ends[0]

    def _work_on(self) -> None:
        self.turn()
        self._let_disks_work()

    def _busy(self) -> bool:
        return bool(self.running or self.saving)

    def _unanswered(self) -> list[LiveRequest]:
        return [*self.running, *self.saving]

    def forget_unused(self) -> None:
        """The memory of pages that are of no use any more goes back to the system, on all ranks."""
        if pages := self.pages.forget(self.unused_seconds):
            self.ranks.forget(pages)

    def turn(self) -> bool:
        """One step for all that run; whether there is anything left to do."""
        began = time.monotonic()
        self.on_disk.turn()
        self._drop_cancelled()
        self._admit()
        if tokens_of := self._compose():
            self._step(tokens_of)
        if self.ledger.age > REPORTED:
            self._report()
        if began > self._forgot_at + REPORTED:
            self._forgot_at = began
            self.forget_unused()
        self.pulse.turned(began, bool(tokens_of))
        return bool(self.running or self._waiting or self.saving)

    def _let_disks_work(self) -> None:
        """Where nothing is left to do but to save; a request that comes wakes the loop."""
        with self._changed:
            if self.saving and not self.running:
                self._changed.wait(POLL)

    def follow(self) -> None:
        """The other ranks: take part in every request until rank 0 ends. Why one ends before that
        is told to all, for clients hear of it."""
        with telling_all(self.comm):
            follow(self.engine, self.comm)

    def end(self) -> None:
        """No more requests."""
        self.on_disk.settle()
        self.ranks.end()

    # -- who runs ---------------------------------------------------------------------------------

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = self._waiting.take_cancelled()
        for live in gone:
            with self._alone(live):
                live.end("cancelled")
        for live in [live for live in self.running if live.cancelled]:
            with self._alone(live):
                self._finish(live, "cancelled")

    def _admit(self) -> None:
        """Takes who waits, in turn, while there is a place, and pages for all that is
        known of it."""
        while len(self.running) < self.most:
            with self._changed:
                live = self._waiting.first()
                if live is None:
                    return
            if live.request.warm and not live.warmed:
                live.warmed = True
                with self._alone(live):
                    self._warm(live)
                continue
            with self._changed:
                held, known = self.pages.begin(live.history, live.request.salt)
                missing = self.pages.missing(held, len(live.history) + 1)
                if missing > self.pages.available and (self.running or self.saving):
                    self.pages.release(held, live.history[:known])
                    return
                slot = next(i for i in count() if all(i != other.slot for other in self.running))
                self.running.append(self._waiting.take())
            live.begin(slot, held, known)

    def _compose(self) -> list[tuple[LiveRequest, int]]:
        """Who takes part in this step, with how many tokens."""
        answering = [live for live in self.running if live.left == 1]
        room = max(1, min(self.chunk, BESIDE) - len(answering)) if answering else self.chunk
        taking = []
        for live in list(self.running):
            with self._alone(live):
                rows = 1 if live.left == 1 else min(live.left, room)
                if rows and live in self.running and self._make_room(live, live.fed + rows):
                    taking.append((live, rows))
                    room -= 0 if live.left == 1 else rows
        return [(live, rows) for live, rows in taking if live in self.running]

    def _make_room(self, live: LiveRequest, tokens: int) -> bool:
        """Pages for so many tokens; where there are none, the last that came makes room, which may
        be this one."""
        while not self.pages.grow(live.held, tokens):
            last = self.running[-1]
            with self._changed:
                self._waiting.put_back(last)
            self.running.pop()
            self.pages.release(last.held, last.history[: last.fed])
            if last is live:
                return False
        return True

    def _finish(self, live: LiveRequest, reason: str) -> None:
        if live.request.saves and reason != "cancelled":
            self._save(live, reason)
        else:
            self._leave(live)
            live.end(reason)

    def _warm(self, live: LiveRequest) -> None:
        """What is kept of it: a prefix for all, a conversation for its own salt."""
        salt = "" if live.request.warm.startswith(f"{PREFIXES}/") else live.request.salt
        live.kept = self.on_disk.warm(live.request.warm, live.history, self.pages, self.stored, salt)

    def _save(self, live: LiveRequest, reason: str) -> None:
        """Its place is free from now on; its pages are when they are read, and it hears of its end
        when all disks have them."""
        request, pages, tokens = live.request, list(live.held.pages), live.history[: live.fed]
        self._report()
        self.running.remove(live)
        self.saving.append(live)
        live.stop()

        def end(unsaved: str) -> None:
            self.saving.remove(live)
            with self._alone(live):
                live.end(reason, unsaved or True)

        def release() -> None:
            self.pages.release(live.held, tokens)

        self.on_disk.save(Save(request.saves, pages, tokens, request.about, self.stored, release, end))

    def _leave(self, live: LiveRequest) -> None:
        self._report()
        self.pages.release(live.held, live.history[: live.fed])
        self.running.remove(live)

    @contextmanager
    def _alone(self, live: LiveRequest) -> Iterator[None]:
        """What is raised in the block ends this request and no other, or else all (faults.py)."""
        try:
            yield
        except Exception as wrong:
            if not self.ranks.in_step:
                raise
            if live in self.running:
                self._leave(live)
            if live in self.saving:
                self.pages.release(live.held, live.history[: live.fed])
                self.saving.remove(live)
            with self._changed:
                self._waiting.remove(live)
            live.fail(wrong)
            if not isinstance(wrong, MpsplitError) and not self.pages.add_up(
                live.held for live in (*self.running, *self.saving)
            ):
                raise

    def _report(self) -> None:
        """What the ranks spent since the last report, divided among who ran."""
        accounts = self.ranks.report()
        self.pulse.answered()
        with nobodys():
            sent, rows = sum(account.sent for account in accounts), sum(live.rows for live in self.running)
            self.ledger.add(accounts, rows)
            for live in self.running:
                live.bytes_sent += sent * live.rows / max(1, rows)
                live.rows = 0
                live.account(accounts)

    # -- a step -----------------------------------------------------------------------------------

    def _step(self, taking: list[tuple[LiveRequest, int]]) -> None:
        tokens, questions, choices, asking = [], [], [], []
        for live, rows in taking:
            with self._alone(live):
                if pages := live.held.pages[live.placed :]:
                    self.ranks.place(live.slot, live.placed, pages)
                    live.placed = len(live.held.pages)
                is_last = rows == live.left
                wish = live.asks(self.ranks) if is_last else Wish()
                tokens += live.history[live.fed : live.fed + rows]
                questions.append(Question.of(Span(live.slot, live.fed, rows), wish))
                choices.append(live.choice if is_last else None)
                asking.append((live, rows))
        answers = self.ranks.step(tokens, questions, choices) if asking else []
        for row, ((live, rows), answer) in enumerate(zip(asking, answers, strict=True)):
            with self._alone(live):
                live.fed += rows
                live.rows += rows
                self.pages.filled(live.held, live.history[: live.fed])
                if answer:
                    self._answer(live, row, answer)

    def _answer(self, live: LiveRequest, row: int, answer: list[Answer]) -> None:
        chosen = live.choose(answer, partial(self.ranks.more, row))
        if finish := live.take(chosen, self.eos, self.facts.context):
            self._finish(live, finish)
