"""Before a request reaches its route: host, API key, body, request id; after it: one line in the log, and headers that
tell browsers to load nothing from elsewhere."""

import hmac
import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutwork.serve.http.bodies import CLOSE, Bodies, too_large
from cutwork.serve.http.errors import body, server_failed
from cutwork.serve.http.stream import ClientLeft
from cutwork.serve.limits import Limits
from cutwork.serve.log import ACCESS

log = logging.getLogger(ACCESS)

HEALTH = ("/health", "/health/live", "/health/ready")
OPEN = ("/", *HEALTH)  # without a key: orchestrators ask, and the page asks for the key itself
QUIET = (*HEALTH, "/metrics")  # not logged
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
BROWSERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
asking: ContextVar[str] = ContextVar("asking", default="")  # the client whose request is being handled
_endings: ContextVar[list[Callable[[], None]]] = ContextVar("endings")


def at_end(do: Callable[[], None]) -> None:
    """Have something done when the request that is being handled has ended, its stream included."""
    _endings.get().append(do)


def client_of(request: Request) -> str:
    """Who asks, to share the engine fairly: by verified API key, otherwise by address, or by network in IPv6."""
    return str(request.state.client)


def cache_salt_of(request: Request) -> str:
    """With whom this client shares what has been computed of a prompt: with those of its key, or with all if there are
    no keys."""
    return str(request.state.cache_salt)


class RequestMiddleware:
    """ASGI middleware around the whole application: what stands before every route.

    keys: those that let clients in, all if there are none. hosts: names the server goes by, beside addresses and
    localhost, if others are to be refused: else a page from elsewhere could give its own name to this server's address
    and read answers. A key keeps such pages out by itself. origins: sites whose pages may ask all the same, as
    "https://example.org"; "*" for all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        keys: Sequence[str] = (),
        hosts: Sequence[str] | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self._origins = frozenset(origins)
        self._app, self._limits = app, limits
        self._keys = [key.encode() for key in keys]
        self._hosts = None if hosts is None or keys else {"localhost", *(host.lower() for host in hosts)}
        self._bodies = Bodies(limits)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        wished = headers.get("x-request-id", "")
        request_id = wished if REQUEST_ID.fullmatch(wished) else secrets.token_hex(8)
        began, status, failure = time.perf_counter(), 0, None
        endings: list[Callable[[], None]] = []

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(BROWSERS | {"X-Request-Id": request_id})
            await send(message)

        arriving = self._bodies.open(receive, self._body_limit(path))
        self._running += path not in HEALTH
        try:
            scope["state"] = {**scope.get("state", {}), "arrived": began, **self._client(scope, headers)}
            asking.set(scope["state"]["client"])
            _endings.set(endings)
            refusal = self._refusal(scope, headers)
            await (refusal or self._app)(scope, arriving.receive, marked)
        except ClientLeft:
            status = 499  # as nginx logs it
        except Exception as error:
            failure, begun = error, bool(status)
            status = 500
            if begun:
                raise  # the server cuts the connection: nothing else can be said any more
            await JSONResponse(server_failed().body(path), 500)(scope, receive, marked)
        finally:
            for ending in endings:
                ending()
            self._bodies.close(arriving)
            self._running -= path not in HEALTH
            if path not in QUIET or status >= 400:
                line = {
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": path[:256],
                    "status": status or 499,
                    "ms": round(1e3 * (time.perf_counter() - began), 1),
                }
                log.log(logging.ERROR if failure else logging.INFO, line, exc_info=failure)

    def _client(self, scope: Scope, headers: Headers) -> dict[str, str]:
        """Who asks: the number of the key that was given, or the address."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer if scheme.lower() == "bearer" else "", headers.get("x-api-key", "")]  # Anthropic's clients' way
        for key in given:
            known = [hmac.compare_digest(key.encode(), valid) for valid in self._keys]  # all of them, in constant time
            if any(known):
                name = f"key {known.index(True)}"
                return {"client": name, "cache_salt": name}
        address = scope.get("client")
        return {"client": _whose(address[0]) if address else "", "cache_salt": ""}

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        path = scope["path"]
        if path not in HEALTH and self._running > self._limits.requests:
            return JSONResponse(body(path, 503, "the server is busy; try again later"), 503, headers=CLOSE)
        if self._hosts is not None and not self._is_ours(headers.get("host", "")):
            return JSONResponse(body(path, 421, "this server does not go by that name; see --allow-host"), 421)
        if self._hosts is not None and scope["method"] == "POST" and self._from_elsewhere(headers):
            return JSONResponse(
                body(path, 403, "pages of other sites may not use this server; allow this one with --cors"), 403
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._body_limit(path):
            return JSONResponse(body(path, 413, too_large(self._body_limit(path))), 413, headers=CLOSE)
        if not _is_utf8_form(headers.get("content-type")):
            return JSONResponse(body(path, 400, "a form's charset is UTF-8; leave charset out"), 400, headers=CLOSE)
        known = scope["state"]["cache_salt"] or not self._keys
        if known or path in OPEN or path.startswith("/static/"):
            return None
        message = "give a valid API key in the header 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
        refused = body(path, 401, message, code="invalid_api_key")
        return JSONResponse(refused, 401, headers={"WWW-Authenticate": "Bearer"})

    def _from_elsewhere(self, headers: Headers) -> bool:
        """Whether a browser sends this for a page of a site that may not ask."""
        return not self._origins & {"*", headers.get("origin", "")} and _from_elsewhere(headers)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname if _is_authority(host) else None
        except ValueError:  # no address in brackets
            return False
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in (self._hosts or ())
        return True

    def _body_limit(self, path: str) -> int:
        return self._limits.audio_bytes if path.startswith("/v1/audio/") else self._limits.body_bytes


def _whose(address: str) -> str:
    """The part of an address that tells one client from another: of IPv6 the first half, as each has all the rest."""
    try:
        ip = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def _is_authority(host: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?", host) is not None


def _is_utf8_form(content_type: str | None) -> bool:
    """Whether a body's fields are UTF-8, if it is a form in parts: Starlette decodes them on the event loop as whatever
    the client names, and punycode takes the square of a text's length."""
    kind, options = parse_options_header(content_type)
    return not kind.startswith(b"multipart/") or options.get(b"charset", b"utf-8").lower() in (b"utf-8", b"utf8")


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a browser sends this for a page of another site."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
