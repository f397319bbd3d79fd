"""Connections below the application: headers arrive in time, and those that wait for them take nobody's place."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from cutwork.serve.limits import Limits


def connections(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol, by h11, which bounds the headers' size; this bounds their time and the number that wait."""

    class Connection(H11Protocol):
        """One client's."""

        _due: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """It was opened."""
            super().connection_made(transport)
            self._wait()
            if len(idle) > limits.idle_connections:
                next(iter(idle))._cut()

        def data_received(self, data: bytes) -> None:
            """Something came: headers, perhaps not all of them, or a body."""
            super().data_received(data)
            if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
                self._done()
            else:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            """It is gone."""
            self._done()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._due is None:
                idle[self] = None
                self._due = self.loop.call_later(limits.header_seconds, self._cut)

        def _done(self) -> None:
            idle.pop(self, None)
            if self._due is not None:
                self._due.cancel()
                self._due = None

        def _cut(self) -> None:
            self._done()
            self.transport.abort()

    idle: dict[Connection, None] = {}  # those that have not sent their headers, the oldest first
    return Connection
