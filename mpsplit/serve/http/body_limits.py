"""Bodies arrive whole, soon and not too large, or not at all.

In: a connection. Out: an app that can take its body for granted.

The bytes are counted as they come, so that a body which does not say its length is bounded too;
what comes after an early answer is thrown away by patience.py's connections, for some seconds.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.any_service import ServiceLimits

WITH_BODY = ("POST", "PUT", "PATCH")


class Bounded:
    def __init__(self, app: ASGIApp, limits: ServiceLimits):
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            body = await self._body(Headers(scope=scope), receive)
        except ApiError as wrong:
            await wrong.response(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self.app(scope, _again(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most, seconds = self.limits.body_bytes, self.limits.body_seconds
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        body, until, more = bytearray(), time.monotonic() + seconds, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except asyncio.TimeoutError:  # of Python 3.10, where it is no TimeoutError
                raise ApiError(408, f"the body did not arrive within {seconds:g} s", "body_timeout") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            more = message.get("more_body", False)
        return bytes(body)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes, and no more are taken; shorten it", "body_too_large")


def _again(body: bytes, receive: Receive) -> Receive:
    """The whole body first, then what comes after it."""
    passed_on = False

    async def receive_again() -> Message:
        nonlocal passed_on
        if passed_on:
            return await receive()
        passed_on = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
