"""Endpoints that every server has: its model, its ranks, its health, its figures, its page."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from mpsplit.serve.api_errors import ApiError, ErrorBody
from mpsplit.serve.http.page import Page
from mpsplit.serve.service.any_service import AnyService

Responses = dict[int | str, dict[str, Any]]  # of FastAPI: what its description says of them
MISTAKES: Responses = {
    "4XX": {"model": ErrorBody, "description": "Something is wrong with the request, or too much was asked at once"},
    500: {"model": ErrorBody, "description": "The answer failed"},
    503: {"model": ErrorBody, "description": "The server is about to end"},
}
OBJECT = {"schema": {"type": "object"}}
OBJECTS: Responses = {200: {"content": {"application/json": OBJECT}}, **MISTAKES}
TEXT: Responses = {200: {"content": {"text/plain": {}}}, **MISTAKES}

api = APIRouter(default_response_class=JSONResponse)


@api.get("/v1/models", responses=OBJECTS)
async def models(http: Request) -> dict:
    return {"object": "list", "data": [_model(service_of(http))]}


@api.get("/v1/models/{name:path}", responses=OBJECTS)
async def model(name: str, http: Request) -> dict:
    check_model(service_of(http), name)
    return _model(service_of(http))


@api.get("/ranks", responses=OBJECTS)
async def ranks(http: Request) -> dict:
    service = service_of(http)
    return {"model": service.model, "load": vars(service.loop.load()), "ranks": service.loop.ranks_now()}


@api.get("/health", responses=OBJECTS)
async def health(http: Request) -> Response:
    """How it is, for people: 503 when it cannot answer now."""
    now = service_of(http).health
    return JSONResponse(now.to_json(), 200 if now.state in ("ok", "full") else 503)


@api.get("/health/ready", responses=OBJECTS)
async def ready(http: Request) -> Response:
    """Whether to send it requests."""
    state = service_of(http).health.state
    return JSONResponse({"status": state}, 200 if state == "ok" else 503)


@api.get("/health/live", responses=OBJECTS)
async def live(http: Request) -> Response:
    """Whether to let it be: 503 when only a new start helps."""
    lives = service_of(http).health.lives
    return JSONResponse({"status": "ok" if lives else "stale"}, 200 if lives else 503)


@api.get("/metrics", responses=TEXT, response_model=None)
async def metrics(http: Request) -> Response:
    return Response(service_of(http).metrics.text(), media_type=CONTENT_TYPE_LATEST)


@api.get("/", include_in_schema=False)
async def page(http: Request) -> HTMLResponse:
    shown: Page = http.app.state.page
    return HTMLResponse(shown.html, headers=shown.headers)


def service_of(http: Request) -> AnyService:
    return http.app.state.service


def check_model(service: AnyService, name: str | None) -> None:
    if name not in (None, service.model):
        raise ApiError(404, f"there is no such model; this server has {service.model}", "model_not_found", "model")


def _model(service: AnyService) -> dict:
    return {"id": service.model, "object": "model", "created": service.created, "owned_by": "mpsplit",
            "max_model_len": service.context, "task": service.task}  # fmt: skip
