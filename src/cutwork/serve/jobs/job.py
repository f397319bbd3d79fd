"""What an HTTP request has set going, and the thread that works on it.

What text and speech have in common stands here once: how much may wait (429), draining (503), deadlines (504), clients
that leave, and the way from the event loop to the thread and back.
"""

import asyncio
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from cutwork.engine.model import Model
from cutwork.serve.http.errors import ApiError, server_failed, shutting_down, took_too_long
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.metrics import ModelMetrics

log = logging.getLogger("cutwork.serve")

PATIENCE = 3  # failures in a row after which the engine is not called ready any more
SMOOTHING = 0.1  # of the seconds between finished places, for Retry-After
CLIENT_LEFT = 499  # as nginx calls it; nobody reads this error

Event = TypeVar("Event")


class Job(Generic[Event]):
    """The work of one request; iterate, once, to get its events as they come. Make it on the event loop.

    places: sequences or recordings it is made of. deadline: seconds it may take. client: who asks.
    """

    def __init__(self, places: int, deadline: float, client: str = "") -> None:
        self.unfinished = places
        self.client = client
        self.arrived = time.perf_counter()
        self.deadline = self.arrived + deadline  # on the clock of time.perf_counter
        self.cancelled = False
        self.on_cancel: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events until the job has ended; raises the ApiError it ended with."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, ApiError):
                raise event
            yield event

    def send(self, event: Event | ApiError | None) -> None:
        """Hand something to whoever iterates, None as the end; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is gone: nobody listens
            self.cancelled = True

    def cancel(self) -> None:
        """End what is unfinished before the next step; harmless at any time, on the event loop or in any thread."""
        self.cancelled = True
        if self.on_cancel:
            self.on_cancel()


AnyJob = TypeVar("AnyJob", bound=Job)  # type: ignore[type-arg]  # of any events


class ModelThread(ABC, Generic[AnyJob]):
    """The only thread that runs a model, and the jobs it has.

    turn: a lock that the threads of one server share, so that two models do not compute at once on the same CPUs.
    limit: places that may be taken when a job comes.
    """

    def __init__(self, model: Model, metrics: ModelMetrics, *, limit: int, turn: FairLock) -> None:
        self.model, self.metrics, self.turn = model, metrics, turn
        self._limit = limit
        self._open: set[AnyJob] = set()
        self._new: deque[AnyJob] = deque()  # those of them that the thread has not taken yet
        self._wake = threading.Condition()  # held while any of these is changed
        self._stop_at: float | None = None  # once known, new jobs are refused
        self._failures = 0  # in a row
        self._interval = 1.0  # smoothed seconds between finished places
        self._finished = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name=f"model {metrics.name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @abstractmethod
    def work(self) -> None:
        """Take new jobs and go on with all of them: a step, or a recording. Called while there are any."""

    @abstractmethod
    def release(self, job: AnyJob) -> None:
        """Free what an unfinished job holds."""

    @property
    def waiting(self) -> int:
        """Places of jobs that have not begun."""
        with self._wake:
            return sum(job.unfinished for job in self._new)

    @property
    def running(self) -> int:
        """What is being worked on."""
        return len(self.open) - self.waiting

    @property
    def taken(self) -> int:
        """Places that count towards the limit: all that are unfinished."""
        return sum(job.unfinished for job in self.open)

    def note_load(self) -> None:
        """Tell the metrics what runs and what waits."""
        self.metrics.load(self.running, self.waiting, self.model.session.scheduler.cache)

    @property
    def ready(self) -> bool:
        """Whether jobs can be expected to succeed."""
        return self.alive and self._stop_at is None and self._failures < PATIENCE

    def learn(self, *, sound: bool) -> None:
        """Keep in mind whether the engine did what it was to do, by which `ready` goes."""
        self._failures = 0 if sound else self._failures + 1

    @property
    def alive(self) -> bool:
        """Whether the thread runs; one that has ended will never answer again."""
        return self._thread.is_alive()

    @property
    def open(self) -> list[AnyJob]:
        """All jobs that have not ended."""
        with self._wake:
            return list(self._open)

    def submit(self, job: AnyJob) -> AnyJob:
        """Queue a job; call on the event loop.

        Raises ApiError: 400 if it is more than the server takes at all, 429 if too much waits, 503 if the server is
        stopping.
        """
        self.check_room(job.unfinished, job.client)
        self.admit(job)
        if not job.unfinished:  # nothing is to be computed
            job.send(None)
            return job
        job.on_cancel = lambda: self.drop(job)
        with self._wake:
            self._open.add(job)
            self._new.append(job)
            self._wake.notify()
        self.note_load()
        return job

    def check_room(self, places: int, client: str) -> None:
        """Raise what `submit` would of so many places: before work is done on what will be refused.

        However full it is, a client may have its part, as large as that of each other one.
        """
        if self._stop_at is not None or not self.alive:
            raise shutting_down()
        if places > self._limit:
            raise ApiError(400, f"this server takes at most {self._limit} sequences in one request, not {places}")
        taken, jobs = self.taken, self.open
        own = sum(job.unfinished for job in jobs if job.client == client)
        if taken + places > self._limit and own + places > self._limit // len({client, *(job.client for job in jobs)}):
            self.metrics.refused()
            seconds = min(60, max(1, math.ceil(self._interval * taken)))
            raise ApiError(429, "too many requests are waiting; try again later", code="queue_full", retry=seconds)

    def admit(self, job: AnyJob) -> None:
        """Raise ApiError if a job may not wait, for another reason than its places."""
        del job

    def drop(self, job: AnyJob) -> None:
        """A job is cancelled: one that waits ends now, another before the next step."""
        with self._wake:
            waits = job in self._new
            self._wake.notify()
            if waits:
                self._new.remove(job)
        if waits:
            self.close(job, self.ending(job))

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        with self._wake:
            self._stop_at = time.perf_counter() + seconds
            self._wake.notify()

    def join(self) -> None:
        """Wait for the thread, which ends once drained."""
        self._thread.join()

    def take(self) -> AnyJob | None:
        """The next new job, in the thread."""
        with self._wake:
            return self._new.popleft() if self._new else None

    def ending(self, job: AnyJob) -> ApiError | None:
        """Why a job has to end now, if it has to: its client left, its time is over, or the server stops."""
        now = time.perf_counter()
        if job.cancelled:
            return ApiError(CLIENT_LEFT, "the client has left")
        if now > job.deadline:
            return took_too_long()
        return shutting_down() if self._stop_at is not None and now >= self._stop_at else None

    def finish(self, job: AnyJob) -> None:
        """One of a job's places is done; the job ends with the last of them."""
        now = time.perf_counter()
        self._interval += SMOOTHING * (now - self._finished - self._interval)
        self._finished = now
        job.unfinished -= 1
        if not job.unfinished:
            self.close(job)

    def close(self, job: AnyJob, error: ApiError | None = None) -> None:
        """A job has ended; what it still holds is free already."""
        with self._wake:
            if job not in self._open:
                return
            self._open.discard(job)
            if job in self._new:  # its time is over, or it came during a step that failed
                self._new.remove(job)
        if error:
            self.metrics.ended(error.status, job.unfinished)
        job.send(error)

    def fail(self, job: AnyJob, error: ApiError | None = None) -> None:
        """End an unfinished job, by default with 500."""
        self.release(job)
        self.close(job, error or server_failed())

    def _run(self) -> None:
        while self._wait():
            try:
                self._sweep()
                if self._open:
                    self.work()
            except BaseException:  # Rust's panics too: nothing may leave all others waiting for ever
                log.exception("the thread of %s failed", self.metrics.name)
                self.learn(sound=False)
                self._abandon(server_failed())
        self._abandon(shutting_down())

    def _abandon(self, error: ApiError) -> None:
        """End all jobs there are."""
        for job in self.open:
            try:
                self.fail(job, error)
            except Exception:
                log.exception("what a request held could not be freed")
                self.close(job, error)

    def _wait(self) -> bool:
        """Until there is a job; False once drained."""
        with self._wake:
            while not self._open and self._stop_at is None:
                self.note_load()
                self._wake.wait()
            return self._stop_at is None or (bool(self._open) and time.perf_counter() < self._stop_at)

    def expire(self) -> None:
        """End those of the jobs that wait whose time is over, while another one is worked on."""
        with self._wake:
            waiting = list(self._new)
        for job in waiting:
            self._end_if_due(job)

    def _sweep(self) -> None:
        for job in self.open:
            self._end_if_due(job)

    def _end_if_due(self, job: AnyJob) -> None:
        if error := self.ending(job):
            self.fail(job, error)
