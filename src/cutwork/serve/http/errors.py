"""Errors in OpenAI's shape, on Anthropic's routes of its types, and nothing else in an answer: no path, no trace."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from cutwork.errors import CutworkError

LOOKED_AT = 64  # errors of one body, which may have as many as keys
TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
MESSAGES = "/v1/messages"  # how Anthropic's routes begin
ANTHROPIC = TYPES | {
    403: "permission_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer with an error: an HTTP status, a sentence, and what OpenAI's clients look at."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    def body(self, path: str) -> dict[str, Any]:
        """The JSON of the answer on the route of this path."""
        return body(path, self.status, self.message, self.param, self.code)

    def headers(self) -> dict[str, str]:
        """Retry-After where it makes sense to try again."""
        return {} if self.retry is None else {"Retry-After": str(self.retry)}


class ErrorResponse(JSONResponse):
    """Repeats what a client has sent, half characters included, which cannot be encoded."""

    def render(self, content: Any) -> bytes:
        """The body (Starlette)."""
        return json.dumps(content, ensure_ascii=False).encode(errors="replace")


def server_failed() -> ApiError:
    """Something went wrong that is no fault of the client's."""
    return ApiError(500, "the server failed; its log says why")


def shutting_down() -> ApiError:
    """The server takes nothing more, or ends what is unfinished."""
    return ApiError(503, "the server is shutting down", code="shutting_down", retry=5)


def took_too_long() -> ApiError:
    """A request reached its deadline."""
    return ApiError(504, "the request took longer than it may", code="timeout")


def body(path: str, status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """{"error": …} as OpenAI writes it; Anthropic's clients find what they look for too, on its routes its types."""
    types, failed = (ANTHROPIC, "api_error") if path.startswith(MESSAGES) else (TYPES, "server_error")
    kind = types.get(status, failed if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"message": message, "type": kind, "param": param, "code": code}}


def install(app: FastAPI) -> None:
    """Turn every exception a handler may raise into such an answer; the middleware does it with what is unexpected."""

    @app.exception_handler(ApiError)
    async def _api(request: Request, error: ApiError) -> ErrorResponse:
        return ErrorResponse(error.body(request.url.path), error.status, headers=error.headers())

    @app.exception_handler(CutworkError)
    async def _cutwork(request: Request, error: CutworkError) -> ErrorResponse:
        return ErrorResponse(body(request.url.path, 400, str(error)), 400)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> ErrorResponse:
        told = body(request.url.path, error.status_code, str(error.detail))
        return ErrorResponse(told, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> ErrorResponse:
        first, path = _plainest(error)
        route = request.url.path
        if first["type"] == "json_invalid":
            reason = str(first.get("ctx", {}).get("error", "")).lower()
            message = f"the body is no JSON: {reason} (character {first['loc'][-1]})"
            return ErrorResponse(body(route, 400, message), 400)
        where = ".".join(path)
        what = "is not supported here; leave it out" if first["type"] == "extra_forbidden" else first["msg"]
        if not where and first["type"] in ("missing", "model_attributes_type"):
            what = "send a JSON object, with Content-Type: application/json"
        message = f"{where}: {what}" if where else str(what)
        return ErrorResponse(body(route, 400, message, where or None), 400)


def _plainest(error: RequestValidationError) -> tuple[dict[str, Any], list[str]]:
    """The first error, or of those about the same place the one that looks deepest into it, and its place in the body.

    A value of several possible types has errors of each, with names of types among those of fields.
    """
    errors: list[dict[str, Any]] = list(error.errors()[:LOOKED_AT])
    places = [_place(each, error.body) for each in errors]
    about = [i for i, place in enumerate(places) if place[: len(places[0])] == places[0]]
    chosen = max(about, key=lambda i: len(places[i]))
    return errors[chosen], places[chosen]


def _place(error: dict[str, Any], given: Any) -> list[str]:
    """The path of an error in what was sent, or in what was not if something is missing."""
    parts = [part for part in error["loc"] if part != "body"]
    if not isinstance(given, dict):  # a form, or nothing
        return [str(part) for part in parts]
    path = []
    for part in parts:
        if (isinstance(given, dict) and part in given) or (isinstance(given, list) and isinstance(part, int)):
            given = given[part]
            path.append(str(part))
    return [*path, str(parts[-1])] if error["type"] == "missing" else path
