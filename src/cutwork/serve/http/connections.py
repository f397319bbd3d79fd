"""Connections below the application: headers arrive in time, answers are read in time, and whoever keeps either waiting
takes nobody's place."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from cutwork.serve.limits import Limits


def connections(limits: Limits) -> type[H11Protocol]:
    """uvicorn's protocol, by h11, which bounds the headers' size; this bounds their time and the number that wait.

    An answer that its client does not read is held, however large: for as long as it is read at all, no longer than a
    request may take, and as long as all of them are not too large. Then the largest goes.
    """

    class Connection(H11Protocol):
        """One client's."""

        _due: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None  # while the system takes no more of the answer

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """It was opened."""
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=1)  # told as soon as the system takes no more, until it has all
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
            self._read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """The client reads more slowly than it is answered."""
            super().pause_writing()
            self._look(self.loop.time() + limits.deadline)
            while sum(unread.values()) > limits.unread_bytes:
                max(unread, key=unread.__getitem__)._cut()

        def resume_writing(self) -> None:
            """All there was has gone."""
            self._read()
            super().resume_writing()

        def _look(self, end: float) -> None:
            left = self.transport.get_write_buffer_size()
            if left >= unread.get(self, left + 1) or self.loop.time() > end:
                self._cut()
                return
            unread[self] = left
            self._unread = self.loop.call_later(limits.unread_seconds, self._look, end)

        def _read(self) -> None:
            unread.pop(self, None)
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

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
            self._read()
            self.transport.abort()

    idle: dict[Connection, None] = {}  # those that have not sent their headers, the oldest first
    unread: dict[Connection, int] = {}  # bytes of answers that clients have not read, when last looked at
    return Connection
