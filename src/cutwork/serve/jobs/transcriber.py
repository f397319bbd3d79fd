"""Transcription beside the workers: one recording after the other in a thread, segments handed out as they come."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from cutwork.audio import RATE, read_audio
from cutwork.engine.model import Model
from cutwork.engine.speech.adapter import Stopped, open_transcription
from cutwork.engine.speech.options import TranscribeOptions
from cutwork.engine.speech.segments import Segment, Transcript
from cutwork.errors import CutworkError
from cutwork.serve.http.errors import ApiError
from cutwork.serve.metrics import Metrics

log = logging.getLogger("cutwork.serve")


@dataclass(eq=False)
class Hearing:
    """One recording on its way; iterate to get its segments, then look at `transcript`."""

    audio: bytes
    options: TranscribeOptions
    deadline: float  # on the clock of time.perf_counter
    loop: asyncio.AbstractEventLoop
    transcript: Transcript | None = None
    arrived: float = field(default_factory=time.perf_counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _events: "asyncio.Queue[Segment | Exception | None]" = field(default_factory=asyncio.Queue)

    async def __aiter__(self) -> AsyncIterator[Segment]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def whole(self) -> Transcript:
        """The transcript, once it is finished."""
        async for _ in self:
            pass
        assert self.transcript
        return self.transcript

    def cancel(self) -> None:
        """End it before the decoder's next step; harmless at any time."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._stop.is_set()

    def tell(self, event: Segment | Exception | None) -> None:
        """Hand something to whoever iterates; from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is gone
            self.cancel()


class Listener:
    """Hears with one speech model; nothing else may run that model.

    turn: the lock of the server's workers, let go before every step so that other models come to theirs. queue: how
    many recordings may wait. longest: seconds a recording may last.
    """

    def __init__(
        self, name: str, model: Model, metrics: Metrics, *, queue: int, turn: threading.Lock, longest: float
    ) -> None:
        self.name, self.model, self.metrics = name, model, metrics
        self._queue, self._turn, self._longest = queue, turn, longest
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"listener {name}")
        self._open: set[Hearing] = set()
        self._stop_at: float | None = None

    def submit(self, audio: bytes, options: TranscribeOptions, deadline: float) -> Hearing:
        """Queue a recording; `deadline` in seconds from now. Call on the event loop.

        Raises ApiError: 429 if the queue is full, 503 if the server is stopping.
        """
        if self._stop_at is not None:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=5)
        if len(self._open) > self._queue:
            self.metrics.rejected.labels(self.name).inc()
            raise ApiError(429, "too many recordings are waiting; try again later", code="queue_full", retry=10)
        hearing = Hearing(audio, options, time.perf_counter() + deadline, asyncio.get_running_loop())
        self._open.add(hearing)
        self._pool.submit(self._run, hearing).add_done_callback(lambda done: self._finish(hearing, done))
        return hearing

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        self._stop_at = time.perf_counter() + seconds

    def join(self) -> None:
        """Wait until all is ended, after `drain`."""
        self._pool.shutdown()

    def _run(self, hearing: Hearing) -> None:
        if hearing.cancelled:
            raise Stopped("nobody waits for it")
        sound = read_audio(hearing.audio, longest=self._longest)
        self.metrics.audio_seconds.labels(self.name).inc(len(sound) / RATE)
        with self._turn:
            found = open_transcription(self.model, sound, hearing.options, stopped=lambda: self._stopped(hearing))
            for segment in found:
                hearing.tell(segment)
            hearing.transcript = found.result()

    def _stopped(self, hearing: Hearing) -> bool:
        """Whether to give up before a step; lets other models take one."""
        self._turn.release()
        time.sleep(0)
        self._turn.acquire()
        now = time.perf_counter()
        return hearing.cancelled or now > hearing.deadline or (self._stop_at is not None and now > self._stop_at)

    def _finish(self, hearing: Hearing, done: "Future[None]") -> None:
        self._open.discard(hearing)
        error, now = done.exception(), time.perf_counter()
        if error is None:
            self.metrics.finished.labels(self.name, "stop").inc()
            self.metrics.latency.labels(self.name).observe(now - hearing.arrived)
            hearing.tell(None)
        elif isinstance(error, Stopped) and hearing.cancelled:
            self.metrics.cancelled.labels(self.name).inc()
        elif isinstance(error, Stopped) and now > hearing.deadline:
            self.metrics.expired.labels(self.name).inc()
            hearing.tell(ApiError(504, "the request took longer than it may", code="timeout"))
        elif isinstance(error, Stopped):
            hearing.tell(ApiError(503, "the server is shutting down", code="shutting_down"))
        elif isinstance(error, CutworkError):
            hearing.tell(ApiError(400, str(error), param="file"))
        else:
            log.error("a transcription failed", exc_info=error)
            self.metrics.failed.labels(self.name).inc()
            hearing.tell(ApiError(500, "the server failed; its log says why"))
