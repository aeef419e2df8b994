"""Between the loop's thread and asyncio.

In: requests. Out: what is heard of them, in order, while somebody waits for it.

Invariant: whoever stops waiting cancels, so that an answer without a reader gives up its place at
once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Protocol

from fastapi import Request as HttpRequest
from fastapi.responses import Response

from mpsplit.errors import MpsplitError
from mpsplit.runtime.choose.lexicon import NoWayOn
from mpsplit.runtime.loop.loop_protocol import Generation, Listener, Piece, Request, Ticket
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.service import Service

CLIENT_LEFT = 499  # nobody reads it; the figures count it


class TakenRequests:
    """Requests that were taken together: all of them, or none."""

    def __init__(self, service: Service, requests: tuple[Request, ...]):
        service.check_open()
        self.service = service
        self._asyncio = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Piece | Generation | MpsplitError]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for index, request in enumerate(requests):
                self._tickets.append(service.loop.submit(request, self._listener(index)))
        except Exception:
            self.cancel()
            raise
        service.tickets.update(self._tickets)

    def cancel(self) -> None:
        """What has ended takes no notice."""
        for ticket in self._tickets:
            ticket.cancel()
        self.service.tickets.difference_update(self._tickets)

    async def events(self) -> AsyncIterator[tuple[int, Piece | Generation]]:
        """(which request, what became of it), until the last one has ended."""
        running = len(self._tickets)
        while running:
            index, event = await self._queue.get()
            if isinstance(event, MpsplitError):
                status = 400 if isinstance(event, NoWayOn) else 500
                raise ApiError(status, f"the answer cannot go on: {event}", "answer_failed")
            if isinstance(event, Generation):
                if event.finish_reason == "cancelled":
                    raise ApiError(503, "the server ended before the answer did", "ending")
                running -= 1
            yield index, event

    def _listener(self, index: int) -> Listener:
        def listen(event: Piece | Generation | MpsplitError) -> None:
            if isinstance(event, Generation):
                self.service.metrics.answered(event)
            with suppress(RuntimeError):  # the server has ended, and nobody waits
                self._asyncio.call_soon_threadsafe(self._queue.put_nowait, (index, event))

        return listen


class Taken(Protocol):
    def cancel(self) -> None: ...


async def while_connected(http: HttpRequest, taken: Taken, answer: Awaitable[Response]) -> Response:
    """The answer, given up as soon as the client is gone."""
    work, left = asyncio.ensure_future(answer), asyncio.ensure_future(_left(http))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=CLIENT_LEFT)
    finally:
        taken.cancel()
        work.cancel()
        left.cancel()
        await asyncio.gather(work, left, return_exceptions=True)


async def _left(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        continue
