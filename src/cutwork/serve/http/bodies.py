"""Bodies on their way in: how large, how long they may take, and how much of all of them the server holds."""

import asyncio

from fastapi import HTTPException
from starlette.types import Message, Receive

from cutwork.serve.limits import Limits

CLOSE = {"Connection": "close", "Retry-After": "5"}


class Bodies:
    """Of all requests there are."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all: set[Body] = set()

    def open(self, receive: Receive, most: int) -> "Body":
        """The body of a request, of at most so many bytes, which ends in time."""
        body = Body(self, receive, most, asyncio.get_running_loop().time() + self._limits.body_seconds)
        self._all.add(body)
        return body

    def close(self, body: "Body") -> None:
        """Its request has been answered."""
        self._all.discard(body)

    def fit(self, body: "Body") -> None:
        """See that there is room for what a body has become; of those that have not arrived the largest goes.

        So a small one always arrives, whatever others hold back. Raises HTTPException (503).
        """
        unfinished = [other for other in self._all if not (other.whole or other.refused)]
        while sum(other.bytes for other in unfinished) > self._limits.unfinished_bytes:
            largest = max(unfinished, key=lambda other: other.bytes)
            unfinished.remove(largest)
            largest.refuse()
        if body.refused or sum(other.bytes for other in self._all) > self._limits.held_bytes:
            raise no_room()


class Body:
    """One request's. most: bytes it may have. due: when it has to be whole, on the event loop's clock."""

    def __init__(self, bodies: Bodies, receive: Receive, most: int, due: float) -> None:
        self._bodies, self._receive, self._most, self._due = bodies, receive, most, due
        self._timeout: asyncio.Timeout | None = None
        self.bytes = 0
        self.whole = self.refused = False

    async def receive(self) -> Message:
        """The next message (ASGI). Raises HTTPException: 408 if it takes too long, 413 if it is too large, 503."""
        if self.whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._due) as self._timeout:
                message = await self._receive()
        except TimeoutError:
            if self.refused:
                raise no_room() from None
            raise HTTPException(408, "the request's body did not arrive in time", headers=CLOSE) from None
        finally:
            self._timeout = None
        self.bytes += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.bytes > self._most:
            raise HTTPException(413, too_large(self._most), headers=CLOSE)
        self._bodies.fit(self)
        return message

    def refuse(self) -> None:
        """End it, wherever it is."""
        self.refused, self._due = True, 0.0
        if self._timeout is not None:
            self._timeout.reschedule(0.0)


def no_room() -> HTTPException:
    """What is said where all bodies together are too large."""
    return HTTPException(503, "the server holds too much already; try again later", headers=CLOSE)


def too_large(most: int) -> str:
    """What is said of a larger one."""
    return f"a request's body has at most {most} bytes"
