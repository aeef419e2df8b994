"""Between the stages' thread and asyncio.

In: a batch. Out: its results, as long as somebody waits for them.

Invariant: whoever stops waiting cancels, so that a batch without a reader gives up its place.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from mpsplit.errors import MpsplitError
from mpsplit.runtime.pipeline.stage_loop import Batch, Results
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.text_service import TextService


class TakenBatch:
    def __init__(self, service: TextService, batch: Batch):
        service.check_open()
        self.service = service
        self._asyncio = asyncio.get_running_loop()
        self._heard: asyncio.Future[Results | MpsplitError] = self._asyncio.create_future()
        self._ticket = service.loop.submit(batch, self._listen)
        service.tickets.add(self._ticket)

    def cancel(self) -> None:
        """What has ended takes no notice."""
        self._ticket.cancel()
        self.service.tickets.discard(self._ticket)

    async def results(self) -> tuple[Any, ...]:
        """One of each input."""
        heard = await self._heard
        if isinstance(heard, MpsplitError):
            raise ApiError(500, f"the answer cannot be made: {heard}", "answer_failed")
        if heard.cancelled:
            raise ApiError(503, "the server ended before the answer did", "ending")
        return heard.values

    def _listen(self, event: Results | MpsplitError) -> None:
        with suppress(RuntimeError):  # the server has ended, and nobody waits
            self._asyncio.call_soon_threadsafe(self._take, event)

    def _take(self, event: Results | MpsplitError) -> None:
        if not self._heard.done():  # who waited for it has left
            self._heard.set_result(event)
