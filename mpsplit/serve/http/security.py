"""Who may call.

In: API keys, the names of this host. Out: an ASGI gate that lets through or answers 401 and 403.

A browser that was lured here (DNS rebinding, or a page of another site) names a host or an origin
that is not ours; keys are compared in constant time, each of them, whether or not one has matched.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mpsplit.errors import RunError
from mpsplit.serve.api_errors import ApiError
from mpsplit.serve.service.any_service import AnyService
from mpsplit.serve.service.caller import Caller

VARIABLE = "MPSPLIT_API_KEY"
# the page itself holds nothing, and asks for the key
OPEN = ("/", "/health", "/health/live", "/health/ready")
LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))
SHORTEST = 8  # bytes of a key


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """One a line of the file, or the one of MPSPLIT_API_KEY."""
    if path is None:
        lines, where = [os.environ.get(VARIABLE, "").encode()], VARIABLE
    else:
        try:
            lines, where = path.read_bytes().splitlines(), str(path)
        except OSError as wrong:
            raise RunError(f"{path} cannot be read ({wrong.strerror}); give --api-key-file a file of keys") from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if path and not keys:
        raise RunError(f"{path} holds no key; write one a line, each {SHORTEST} bytes or more")
    if any(len(key) < SHORTEST for key in keys):
        raise RunError(f"a key of {where} is shorter than {SHORTEST} bytes, so it can be guessed; take a longer one")
    return keys


def allowed_hosts(host: str, address: str, keys: tuple[bytes, ...]) -> frozenset[str] | None:
    """By which names a browser may call a server at this address; None for any. Refuses to be open
    to others without a key."""
    if ipaddress.ip_address(address).is_loopback:
        return LOCAL | {host.lower(), address}
    if not keys:
        raise RunError(
            f"--host {host} can be reached from other machines, and there is no API key; give --api-key-file FILE "
            f"(or {VARIABLE}), or leave --host out to serve this machine alone"
        )
    return None


class Gate:
    def __init__(self, app: ASGIApp, service: AnyService):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            wrong = self._stranger(headers) or self._keyless(scope, headers)
            if wrong:
                await wrong.response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _stranger(self, headers: Headers) -> ApiError | None:
        hosts = self.service.hosts
        if hosts is None:
            return None
        origin = headers.get("origin")
        for what, name in (("Host", _name(f"//{headers.get('host', '')}")), ("Origin", origin and _name(origin))):
            if name is not None and name not in hosts:
                ours = " or ".join(sorted(hosts))
                message = f"the {what} header names another host; call this server by {ours}"
                return ApiError(403, message, "host_not_allowed")
        return None

    def _keyless(self, scope: Scope, headers: Headers) -> ApiError | None:
        keys = self.service.keys
        if not keys or scope["path"] in OPEN:
            return None
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        key_sent = credentials.strip().encode("latin-1")
        matches = [hmac.compare_digest(key_sent, key) for key in keys]
        if kind.lower() == "bearer" and any(matches):
            scope["mpsplit.key"] = matches.index(True)
            return None
        return ApiError(401, "a valid API key is needed; send `Authorization: Bearer KEY`", "invalid_api_key")


def caller(scope: Scope, keys: tuple[bytes, ...], user: str | None) -> Caller:
    key = keys[scope["mpsplit.key"]] if keys else b""
    if len(keys) > 1:
        return Caller(f"key {scope['mpsplit.key']}", key)
    return Caller(f"user {user}" if user else f"address {(scope.get('client') or ['?'])[0]}", key)


def _name(url: str) -> str:
    """The host of a URL without its port; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
