"""The HTTP application.

In: a Service. Out: a FastAPI app. Its endpoints read a request, ask the loop and send its answer.

What takes long (tokenizing, compiling a schema) is done in threads, so that the streams of others
go on; schemas one after the other, for one can take seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from mpsplit.serve import api_errors
from mpsplit.serve.api_errors import ApiError, ErrorBody, Guarded
from mpsplit.serve.http.body_limits import Bounded
from mpsplit.serve.http.page import Page
from mpsplit.serve.http.security import Gate, caller
from mpsplit.serve.openai.answer_shapes import Answer, AnswerShape, ChatShape, CompletionShape
from mpsplit.serve.openai.event_streams import EventStream, HttpReply
from mpsplit.serve.openai.request_bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody, Wishes
from mpsplit.serve.openai.request_meaning import Meaning, chat_ids, of_chat, of_completion, text_ids
from mpsplit.serve.openai.tool_calls import ToolReader
from mpsplit.serve.service.caller import Caller
from mpsplit.serve.service.service import Service
from mpsplit.serve.service.taken_requests import CLIENT_LEFT, TakenRequests, while_connected

Responses = dict[int | str, dict[str, Any]]  # of FastAPI: what its description says of them
MISTAKES: Responses = {
    "4XX": {"model": ErrorBody, "description": "Something is wrong with the request, or too much was asked at once"},
    500: {"model": ErrorBody, "description": "The answer failed"},
    503: {"model": ErrorBody, "description": "The server is about to end"},
}
NO_EMBEDDINGS = "a causal language model predicts tokens and serves no embeddings"
OBJECT = {"schema": {"type": "object"}}
ANSWERS: Responses = {200: {"content": {"application/json": OBJECT, "text/event-stream": {}}}, **MISTAKES}
OBJECTS: Responses = {200: {"content": {"application/json": OBJECT}}, **MISTAKES}
TEXT: Responses = {200: {"content": {"text/plain": {}}}, **MISTAKES}

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


@api.get("/v1/models", responses=OBJECTS)
async def models(http: Request) -> dict:
    return {"object": "list", "data": [_model(_service(http))]}


@api.get("/v1/models/{name:path}", responses=OBJECTS)
async def model(name: str, http: Request) -> dict:
    _check_model(_service(http), name)
    return _model(_service(http))


@api.post("/tokenize", responses=OBJECTS)
async def tokenize(body: TokenizeBody, http: Request) -> dict:
    service = _service(http)
    _check_model(service, body.model)
    if body.messages is not None:
        tokens = await run_in_threadpool(chat_ids, service, body.messages)
    else:
        assert body.prompt is not None, "a body has one of them"
        tokens = await run_in_threadpool(text_ids, service, body.prompt)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.context}


@api.post("/detokenize", responses=OBJECTS)
async def detokenize(body: DetokenizeBody, http: Request) -> dict:
    service = _service(http)
    _check_model(service, body.model)
    if service.loop.text is None:
        raise ApiError(400, "this model has no tokenizer", "no_tokenizer")
    return {"prompt": await run_in_threadpool(service.loop.text.decode, body.tokens)}


@api.get("/ranks", responses=OBJECTS)
async def ranks(http: Request) -> dict:
    service = _service(http)
    return {"model": service.model, "load": vars(service.loop.load()), "ranks": service.loop.ranks_now()}


@api.get("/health", responses=OBJECTS)
async def health(http: Request) -> Response:
    """How it is, for people: 503 when it cannot answer now."""
    now = _service(http).health
    return JSONResponse(now.to_json(), 200 if now.state in ("ok", "full") else 503)


@api.get("/health/ready", responses=OBJECTS)
async def ready(http: Request) -> Response:
    """Whether to send it requests."""
    state = _service(http).health.state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


@api.get("/health/live", responses=OBJECTS)
async def live(http: Request) -> Response:
    """Whether to let it be: 503 when only a new start helps."""
    lives = _service(http).health.lives
    return JSONResponse({"status": "ok" if lives else "stale"}, 200 if lives else 503)


@api.get("/metrics", responses=TEXT, response_model=None)
async def metrics(http: Request) -> Response:
    return Response(_service(http).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@api.get("/", include_in_schema=False)
async def page(http: Request) -> HTMLResponse:
    shown: Page = http.app.state.page
    return HTMLResponse(shown.html, headers=shown.headers)


def create_app(service: Service) -> FastAPI:
    app = FastAPI(title="mpsplit", docs_url=None, redoc_url=None)
    app.state.service, app.state.page, app.state.schemas = service, Page.read(), asyncio.Semaphore(1)
    api_errors.install(app)
    app.include_router(api)
    app.add_middleware(Bounded, limits=service.limits)
    app.add_middleware(Gate, service=service)
    app.add_middleware(Guarded)
    app.add_middleware(CountedReplies, service=service)  # the last one added is the first one called
    return app


class CountedReplies:
    """Every answer, by its route and status, those of the gate among them."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_counted(message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requested(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await self.app(scope, receive, send_counted if scope["type"] == "http" else send)


async def _answer(
    http: Request, body: B, meaning_of: Callable[[Service, B, Caller], Meaning], shape: type[AnswerShape]
) -> Response:
    service = _service(http)
    service.check_open()
    _check_model(service, body.model)
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
    return http.app.state.service


def _model(service: Service) -> dict:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "mpsplit",
            "max_model_len": service.context}  # fmt: skip


def _check_model(service: Service, name: str | None) -> None:
    if name not in (None, service.model):
        raise ApiError(404, f"there is no such model; this server has {service.model}", "model_not_found", "model")
