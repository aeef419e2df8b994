"""An answer as it is made, or as a whole.

In: what is heard of requests. Out: server-sent events, or one JSON object.

A stream ends with `data: [DONE]`, or with an error in its place.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi.responses import JSONResponse, Response, StreamingResponse

from mpsplit.runtime.choose.choosing import ChosenToken
from mpsplit.runtime.loop.loop_protocol import Generation
from mpsplit.serve.api_errors import of_any
from mpsplit.serve.openai.answer_shapes import Answer, AnswerShape, usage
from mpsplit.serve.service.service import Service
from mpsplit.serve.service.taken_requests import TakenRequests

DONE = "data: [DONE]\n\n"


@dataclass(frozen=True)
class HttpReply:
    """One HTTP answer, of one or several choices; `n` of them belong to a prompt, whose `left_out`
    tokens nobody read."""

    service: Service
    taken: TakenRequests
    shape: AnswerShape
    answers: tuple[Answer, ...]
    n: int
    left_out: int
    include_usage: bool = False

    async def whole(self) -> Response:
        async for _ in self._heard():
            continue
        choices = [self.shape.whole(index, answer) for index, answer in enumerate(self.answers)]
        head = self._head(self.shape.kind)
        return JSONResponse(head | {"choices": choices, "usage": self._usage()})

    async def events(self) -> AsyncIterator[str]:
        try:
            async for event in self._chunks():
                yield f"data: {json.dumps(event)}\n\n"
        except Exception as wrong:
            self.taken.cancel()  # whoever hears of it finds no place taken
            yield f"data: {json.dumps(of_any(wrong).body)}\n\n"
        else:
            yield DONE

    async def _chunks(self) -> AsyncIterator[dict]:
        head = self._head(self.shape.chunk_kind) | ({"usage": None} if self.include_usage else {})
        for index, answer in enumerate(self.answers):
            if opening := self.shape.opening(index, answer):
                yield head | {"choices": [opening]}
        async for index, text, chosen in self._heard():
            answer = self.answers[index]
            if text or (chosen and (self.shape.lexicon or self.shape.tells_ids)):
                yield head | {"choices": [self.shape.chunk(index, answer, text, chosen)]}
            if answer.end:
                yield head | {"choices": [self.shape.closing(index, answer)]}
        if self.include_usage:
            yield head | {"choices": [], "usage": self._usage()}

    async def _heard(self) -> AsyncIterator[tuple[int, str, list[ChosenToken]]]:
        """(which answer, text that can be shown, tokens of it but for the end of the answer, which
        is no text)"""
        ends = () if self.shape.tells_ids else self.service.loop.eos
        async for index, event in self.taken.events():
            answer, tokens = self.answers[index], () if isinstance(event, Generation) else event.chosen
            chosen = [token for token in tokens if token.id not in ends]
            answer.chosen += chosen
            yield index, answer.hear(event), chosen

    def _usage(self) -> dict:
        return usage(self.answers, self.n, self.left_out)

    def _head(self, kind: str) -> dict:
        number = self.shape.prefix + secrets.token_hex(12)
        return {"id": number, "object": kind, "created": int(time.time()), "model": self.service.model}


class EventStream(StreamingResponse):
    """Server-sent events; when it ends, however it does, so do the answers."""

    def __init__(self, reply: HttpReply):
        # proxies pass it on piece by piece
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(reply.events(), headers=headers, media_type="text/event-stream")
        self.taken = reply.taken

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.taken.cancel()
