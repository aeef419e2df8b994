"""The HTTP application.

In: a service. Out: a FastAPI app, with the endpoints that every server has and those of its model.
"""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mpsplit.serve import api_errors
from mpsplit.serve.api_errors import Guarded
from mpsplit.serve.http import common_endpoints, text_endpoints, token_endpoints
from mpsplit.serve.http.body_limits import Bounded
from mpsplit.serve.http.page import Page
from mpsplit.serve.http.security import Gate
from mpsplit.serve.service.any_service import AnyService
from mpsplit.serve.service.text_service import TextService


def create_app(service: AnyService) -> FastAPI:
    app = FastAPI(title="mpsplit", docs_url=None, redoc_url=None)
    own, page = (
        (text_endpoints.api, "nearest.html") if isinstance(service, TextService) else (token_endpoints.api, "page.html")
    )
    app.state.service, app.state.page, app.state.schemas = service, Page.read(page), asyncio.Semaphore(1)
    api_errors.install(app)
    app.include_router(own)
    app.include_router(common_endpoints.api)
    app.add_middleware(Bounded, limits=service.limits)
    app.add_middleware(Gate, service=service)
    app.add_middleware(Guarded)
    app.add_middleware(CountedReplies, service=service)  # the last one added is the first one called
    return app


class CountedReplies:
    """Every answer, by its route and status, those of the gate among them."""

    def __init__(self, app: ASGIApp, service: AnyService):
        self.app, self.metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_counted(message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requested(getattr(scope.get("route"), "path", "other"), message["status"])
            await send(message)

        await self.app(scope, receive, send_counted if scope["type"] == "http" else send)
