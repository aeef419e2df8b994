"""Endpoints of a decoder: chats, completions, tokens.

They read a request, ask the loop and send its answer. What takes long (tokenizing, compiling a
schema) is done in threads, so that the streams of others go on; schemas one after the other, for
one can take seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from mpsplit.serve.api_errors import ApiError, ErrorBody
from mpsplit.serve.http.common_endpoints import MISTAKES, OBJECT, OBJECTS, Responses, check_model, service_of
from mpsplit.serve.http.security import caller
from mpsplit.serve.openai.answer_shapes import Answer, AnswerShape, ChatShape, CompletionShape
from mpsplit.serve.openai.event_streams import EventStream, HttpReply
from mpsplit.serve.openai.request_bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, Wishes
from mpsplit.serve.openai.request_meaning import Meaning, chat_ids, of_chat, of_completion, text_ids
from mpsplit.serve.openai.tool_calls import ToolReader
from mpsplit.serve.service.caller import Caller
from mpsplit.serve.service.service import Service
from mpsplit.serve.service.taken_requests import CLIENT_LEFT, TakenRequests, while_connected

NO_EMBEDDINGS = "a causal language model predicts tokens and serves no embeddings"
ANSWERS: Responses = {200: {"content": {"application/json": OBJECT, "text/event-stream": {}}}, **MISTAKES}

B = TypeVar("B", bound=Wishes)
api = APIRouter(default_response_class=JSONResponse)


@api.post("/v1/chat/completions", responses=ANSWERS, response_model=None)
async def chat(body: ChatBody, http: Request) -> Response:
    return await _answer(http, body, of_chat, ChatShape)


@api.post("/v1/completions", responses=ANSWERS, response_model=None)
async def completions(body: CompletionBody, http: Request) -> Response:
    return await _answer(http, body, of_completion, CompletionShape)


@api.post(
    "/v1/embeddings", status_code=400, response_model=ErrorBody, responses=MISTAKES, response_description=NO_EMBEDDINGS
)
async def embeddings(http: Request) -> Response:
    """Refused, whatever is asked: packages hold causal language models alone."""
    message = (
        f"{_service(http).model}: {NO_EMBEDDINGS}; ask a server with an embedding model, or this one for text at"
        " /v1/chat/completions"
    )
    raise ApiError(400, message, "no_embeddings", "model")


@api.post("/tokenize", responses=OBJECTS)
async def tokenize(body: TokenizeBody, http: Request) -> dict:
    service = _service(http)
    check_model(service, body.model)
    if body.messages is not None:
        tokens = await run_in_threadpool(chat_ids, service, body.messages)
    else:
        assert body.prompt is not None, "a body has one of them"
        tokens = await run_in_threadpool(text_ids, service, body.prompt)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.context}


@api.post("/detokenize", responses=OBJECTS)
async def detokenize(body: DetokenizeBody, http: Request) -> dict:
    service = _service(http)
    check_model(service, body.model)
    if service.loop.text is None:
        raise ApiError(400, "this model has no tokenizer", "no_tokenizer")
    return {"prompt": await run_in_threadpool(service.loop.text.decode, body.tokens)}


async def _answer(
    http: Request, body: B, meaning_of: Callable[[Service, B, Caller], Meaning], shape: type[AnswerShape]
) -> Response:
    service = _service(http)
    service.check_open()
    check_model(service, body.model)
    async with http.app.state.schemas if body.has_schema else nullcontext():
        if body.has_schema and await http.is_disconnected():
            return Response(status_code=CLIENT_LEFT)
        meaning = await run_in_threadpool(meaning_of, service, body, caller(http.scope, service.keys, body.user))
    shaped = shape(service.lexicon if body.likely is not None else None, service.loop.text is None)
    taken = TakenRequests(service, meaning.requests)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    answers = [Answer(echo, ToolReader(meaning.tools) if meaning.tools else None) for echo in meaning.echo]
    reply = HttpReply(service, taken, shaped, tuple(answers), meaning.n, meaning.left_out, include_usage)
    return EventStream(reply) if body.stream else await while_connected(http, taken, reply.whole())


def _service(http: Request) -> Service:
    service = service_of(http)
    assert isinstance(service, Service), "these endpoints are a decoder's"
    return service
