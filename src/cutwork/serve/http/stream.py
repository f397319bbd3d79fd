"""How an answer leaves: whole, unless the client goes first, or as server-sent events."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cutwork.engine.decoding.requests import Request as Sequence
from cutwork.serve.http.errors import ApiError, body

Answer = TypeVar("Answer")


class Work(Protocol):
    """What a request has set going."""

    def cancel(self) -> None:
        """End what is unfinished; harmless at any time."""


class ClientLeft(Exception):
    """The client closed the connection; nobody reads the answer."""


async def whole_answer(request: Request, group: Work, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of `work`, which is cancelled, with its group, when the client closes the connection.

    Raises ClientLeft then.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        group.cancel()
        for each in (task, left):
            each.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, one per dict of `events`, then [DONE]; cancels its group whatever happens.

    An error after the first byte becomes an event with OpenAI's error object. A reader so slow that the whole takes
    longer than the request's deadline and `grace` seconds more is cut off.
    """

    def __init__(self, group: Work, events: AsyncIterator[dict[str, Any]], deadline: float) -> None:
        self._group, self._deadline = group, deadline + 10
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._encode(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI)."""
        try:
            async with asyncio.timeout(self._deadline):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientLeft from None
        finally:
            self._group.cancel()

    @staticmethod
    async def _encode(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(body(error.status, error.message, error.param, error.code))}\n\n"
        yield "data: [DONE]\n\n"


def identifier(prefix: str) -> str:
    """A name for an answer that nobody can guess."""
    return f"{prefix}-{secrets.token_hex(12)}"


def usage(prompt_tokens: int, requests: list[Sequence]) -> dict[str, Any]:
    """Tokens of an answer; `prompt_tokens` counts each prompt once."""
    completion = sum(len(request.tokens) for request in requests)
    cached = min((request.sequence.reused_tokens for request in requests), default=0)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(requests: list[Sequence]) -> dict[str, Any]:
    """Times of the first choice, in llama.cpp's words."""
    if not requests:
        return {}
    result = requests[0].result()
    t = result.timings
    return {
        "queue_ms": 1e3 * t.queued,
        "cache_n": t.reused_tokens,
        "prompt_n": result.prompt_tokens - t.reused_tokens,
        "prompt_ms": 1e3 * t.prefill,
        "prompt_per_second": result.prefill_speed,
        "predicted_n": len(result.tokens),
        "predicted_ms": 1e3 * t.decode,
        "predicted_per_second": result.decode_speed,
    }
