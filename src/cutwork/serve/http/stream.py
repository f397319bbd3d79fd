"""How an answer leaves: whole, unless the client goes first, or as server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from cutwork.serve.http.errors import ApiError, took_too_long
from cutwork.serve.jobs.job import Job

Result = TypeVar("Result")

GRACE = 10  # seconds beyond a request's deadline in which its answer may still be written, or read if it is a stream


class ClientLeft(Exception):
    """The client closed the connection; nobody reads the answer."""


def seconds_left(request: Request, deadline: float) -> float:
    """What remains of the seconds a request may take."""
    return deadline - (time.perf_counter() - float(request.state.arrived))


async def while_connected(request: Request, work: Coroutine[Any, Any, Result], seconds: float | None = None) -> Result:
    """The result of `work`, which is cancelled when the client closes the connection or so many seconds are over.

    Raises ClientLeft or ApiError (504) then.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft if left.done() else took_too_long()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def whole_answer(request: Request, job: Job[Any], work: Coroutine[Any, Any, Result]) -> Result:
    """As `while_connected`; in the end the job, which has its own deadline, is cancelled too. What is made of its
    results, as log-probabilities are written, may take GRACE seconds more."""
    try:
        return await while_connected(request, work, job.deadline + GRACE - time.perf_counter())
    finally:
        job.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Server-sent events, one per dict of `events`, then perhaps [DONE]; cancels its job whatever happens.

    named: each is announced by its `type`, as OpenAI's responses and Anthropic's messages are streamed. done: whether
    [DONE] ends it, by default unless they are named. An error after the first byte becomes an event with OpenAI's error
    object. A reader so slow that the whole takes longer than `deadline` seconds and GRACE more is cut off.
    """

    def __init__(
        self,
        job: Job[Any],
        events: AsyncIterator[dict[str, Any]],
        deadline: float,
        more_headers: Mapping[str, str] | None = None,
        *,
        named: bool = False,
        done: bool | None = None,
    ) -> None:
        self._job, self._seconds, self._named = job, deadline + GRACE, named
        self._done = not named if done is None else done
        self._path = ""  # told when it is sent
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(more_headers or {})}
        super().__init__(self._encode(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it (ASGI). Whether the client is there is asked here: not every server's `send` tells."""
        self._path = scope["path"]
        try:
            await while_connected(Request(scope, receive), self.stream_response(send), self._seconds)
        except ClientLeft:
            pass  # nobody reads the rest
        except ApiError:
            raise ClientLeft from None
        finally:
            self._job.cancel()

    async def _encode(self, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield self._event(event)
        except ApiError as error:
            yield self._event(error.body(self._path))
        if self._done:
            yield "data: [DONE]\n\n"

    def _event(self, event: dict[str, Any]) -> str:
        name = f"event: {event['type']}\n" if self._named else ""
        return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
