"""Errors in OpenAI's shape.

In: whatever a request made us raise. Out: a status and {"error": {message, type, param, code}}.

What the client can mend is told in full; of what it cannot, only that it happened, and a number
under which the log has more. Nothing of a request is repeated but names of fields.
"""

from __future__ import annotations

import json
import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpsplit.errors import MpsplitError, RunError
from mpsplit.runtime.loop.faults import OwnFault, told
from mpsplit.runtime.loop.loop_protocol import Ending, Full

RETRY_SECONDS = {429: 1, 503: 5}
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
LONGEST = 2000  # characters of a message
# what pydantic puts into a path for a union
ALTERNATIVE = re.compile(r"\[|^constrained-|^function-|^str$")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class ApiError(Exception):
    """An answer that is no answer."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @property
    def body(self) -> dict:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self)[:LONGEST], "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> Response:
        headers = {"Retry-After": str(RETRY_SECONDS[self.status])} if self.status in RETRY_SECONDS else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # in ASCII: half a surrogate pair is no UTF-8, and the name of a field may be one
        return Response(json.dumps(self.body), self.status, headers, "application/json")


def of_any(wrong: Exception) -> ApiError:
    """A mistake of ours has a number, under which the log has it (faults.py)."""
    return wrong if isinstance(wrong, ApiError) else of_mpsplit(told(wrong))


def of_mpsplit(wrong: MpsplitError) -> ApiError:
    if isinstance(wrong, OwnFault):
        return ApiError(500, str(wrong), "failed")
    if isinstance(wrong, Full):
        return ApiError(429, str(wrong), "queue_full")
    if isinstance(wrong, Ending):
        return ApiError(503, str(wrong), "ending")
    return ApiError(400 if isinstance(wrong, RunError) else 500, str(wrong))


def of_validation(wrong: RequestValidationError) -> ApiError:
    """One thing that is wrong; of the alternatives of a union rather one of the right kind, but for
    its value."""
    errors = wrong.errors()
    error = next((each for each in errors if not each["type"].endswith("_type")), errors[0])
    if error["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {error['ctx']['error']}", "invalid_json")
    where = ".".join(str(step) for step in error["loc"][1:] if not ALTERNATIVE.search(str(step))) or None
    if error["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {where}", "unknown_parameter", where)
    if error["loc"] == ("body",) and error["type"] != "value_error":
        return ApiError(400, "send a JSON object, with the header Content-Type: application/json", "invalid_json")
    message = error["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where}: {message}" if where else message, "invalid_value", where)


def install(app: FastAPI) -> None:
    def answer(of):
        async def handle(request: Request, wrong: Exception) -> Response:
            return of(wrong).response

        return handle

    app.add_exception_handler(ApiError, answer(lambda wrong: wrong))
    app.add_exception_handler(MpsplitError, answer(of_mpsplit))
    app.add_exception_handler(RequestValidationError, answer(of_validation))
    app.add_exception_handler(HTTPException, answer(lambda wrong: ApiError(wrong.status_code, str(wrong.detail))))


class Guarded:
    """Whatever an app raises is answered, as long as nothing else was."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except Exception as wrong:
            mistake = of_any(wrong)
            if not begun:
                await mistake.response(scope, receive, send)
