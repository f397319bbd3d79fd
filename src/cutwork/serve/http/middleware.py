"""Before a request reaches its route: body size, API key, request id; after it: one line of JSON in the log."""

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutwork.serve.http.errors import body
from cutwork.serve.http.stream import ClientLeft

log = logging.getLogger("cutwork.access")

OPEN = ("/", "/health/live", "/health/ready")  # without a key: orchestrators ask, and the page asks for the key itself
QUIET = ("/health/live", "/health/ready", "/metrics")  # not logged
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def client_of(request: Request) -> str:
    """Who asks, to share the engine fairly: by API key, otherwise by address."""
    return request.headers.get("authorization") or (request.client.host if request.client else "")


class RequestMiddleware:
    """ASGI middleware around the whole application: what stands before every route."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str] = (), body_bytes: int, audio_bytes: int) -> None:
        self._app, self._body_bytes, self._audio_bytes = app, body_bytes, audio_bytes
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        wished = headers.get("x-request-id", "")
        request_id = wished if REQUEST_ID.fullmatch(wished) else secrets.token_hex(8)
        began, status, received = time.perf_counter(), 0, 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_limit(scope["path"]):
                raise HTTPException(413, self._too_large(scope["path"]))
            return message

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            refusal = self._refusal(scope["path"], headers)
            await (refusal or self._app)(scope, counted, marked)
        except ClientLeft:
            status = 499  # as nginx logs it
        finally:
            if scope["path"] not in QUIET or status >= 400:
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "level": "info",
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"][:256],
                    "status": status or 499,
                    "ms": round(1e3 * (time.perf_counter() - began), 1),
                }
                log.info(json.dumps(line))

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._body_limit(path):
            return JSONResponse(body(413, self._too_large(path)), 413)
        if not self._keys or path in OPEN or path.startswith("/static/"):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(key.encode(), valid) for valid in self._keys]  # all of them, in constant time
        if scheme.lower() == "bearer" and any(known):
            return None
        message = "give a valid API key in the header 'Authorization: Bearer KEY'"
        return JSONResponse(body(401, message, code="invalid_api_key"), 401, headers={"WWW-Authenticate": "Bearer"})

    def _body_limit(self, path: str) -> int:
        return self._audio_bytes if path.startswith("/v1/audio/") else self._body_bytes

    def _too_large(self, path: str) -> str:
        return f"a request's body has at most {self._body_limit(path)} bytes"
