"""Endpoints of an encoder and of a cross-encoder: embeddings, scores of pairs, tokens.

They read a request, ask the stages and send what came of it. Texts are tokenized in threads, so
that other requests go on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from mpsplit.runtime.pipeline.stage_loop import Batch
from mpsplit.runtime.pipeline.text_model import EMBED, RERANK, tokens_of
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.http.common_endpoints import OBJECTS, check_model, service_of
from mpsplit.serve.http.security import caller
from mpsplit.serve.openai.text_answers import embeddings_answer, rerank_answer
from mpsplit.serve.openai.text_bodies import EmbeddingsBody, RerankBody, TextTokenizeBody
from mpsplit.serve.service.taken_batch import TakenBatch
from mpsplit.serve.service.taken_requests import while_connected
from mpsplit.serve.service.text_service import TextService

NO_TOKENS = "this model reads texts and predicts no tokens"
OF_TASK = {EMBED: "/v1/embeddings", RERANK: "/v1/rerank"}
AnswerOf = Callable[[list, int], dict[str, Any]]
api = APIRouter(default_response_class=JSONResponse)


@api.post("/v1/embeddings", responses=OBJECTS, response_model=None)
async def embeddings(body: EmbeddingsBody, http: Request) -> Response:
    service = _service(http, EMBED, body.model)
    size = service.texts.size
    if body.dimensions not in (None, size):
        raise ApiError(
            400, f"dimensions {body.dimensions}: this model gives {size}, and was not trained for fewer; leave it out",
            "invalid_value", "dimensions",
        )  # fmt: skip
    _check_count(service, len(body.texts) or len(body.ids), "input")
    if body.texts:
        inputs = await run_in_threadpool(service.texts.inputs, body.texts)
    else:
        inputs = await run_in_threadpool(service.texts.of_ids, body.ids)
    answer = partial(embeddings_answer, service.model, body)
    return await _answered(service, http, inputs, service.texts.embedding, answer, body.user)


@api.post("/v1/rerank", responses=OBJECTS, response_model=None)
async def rerank(body: RerankBody, http: Request) -> Response:
    """How well each document answers the query, from 0 to 1."""
    service = _service(http, RERANK, body.model)
    _check_count(service, len(body.documents), "documents")
    pairs = [(body.query, text) for text in body.texts]
    inputs = await run_in_threadpool(service.texts.inputs, pairs)
    answer = partial(rerank_answer, service.model, body)
    return await _answered(service, http, inputs, service.texts.score, answer, body.user)


@api.post("/v1/chat/completions", include_in_schema=False)
@api.post("/v1/completions", include_in_schema=False)
async def no_tokens(http: Request) -> Response:
    """Refused, whatever is asked."""
    service = service_of(http)
    raise ApiError(400, f"{service.model}: {NO_TOKENS}; ask {OF_TASK[service.task]}", "no_tokens", "model")


@api.post("/tokenize", responses=OBJECTS)
async def tokenize(body: TextTokenizeBody, http: Request) -> dict:
    service = _service(http, "", body.model)
    [(tokens, _)] = await run_in_threadpool(service.texts.read.encoded, [body.prompt])
    return {"tokens": tokens, "count": len(tokens), "max_model_len": service.context}


async def _answered(
    service: TextService, http: Request, inputs: list, read: Callable[[Any], Any], answer_of: AnswerOf, user: str | None
) -> Response:
    tokens = tokens_of(inputs)
    taken = TakenBatch(service, Batch(tuple(inputs), read, caller(http.scope, service.keys, user).owner))

    async def whole() -> Response:
        values = await taken.results()
        service.metrics.read_texts(len(values), tokens)
        return await run_in_threadpool(lambda: JSONResponse(answer_of(list(values), tokens)))

    return await while_connected(http, taken, whole())


def _service(http: Request, task: str, model: str | None) -> TextService:
    """Open, of this name, and for this task where one is named."""
    service = service_of(http)
    assert isinstance(service, TextService), "these endpoints are of models that read texts"
    service.check_open()
    check_model(service, model)
    if task and service.task != task:
        ours = OF_TASK[service.task]
        raise ApiError(400, f"{service.model} is for {ours}, not for {OF_TASK[task]}; ask there", "wrong_task", "model")
    return service


def _check_count(service: TextService, count: int, field: str) -> None:
    most = service.limits.texts
    if count > most:
        raise ApiError(400, f"{count} texts in one request, at most {most} are taken; send fewer", param=field)
