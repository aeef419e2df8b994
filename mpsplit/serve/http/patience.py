"""Connections that nobody works for end soon.

In: uvicorn's protocol. Out: the same, with a limit on heads that never become whole, and on bodies
that go on after their answer.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient(seconds: float) -> type[H11Protocol]:
    class Patient(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _watch(self) -> None:
            """The time runs while no request is whole, or the answer to it is; it does not begin
            anew with each byte."""
            if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
                self._stop()
            elif self.waiting is None:
                self.waiting = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self.waiting:
                self.waiting.cancel()
                self.waiting = None

    return Patient
