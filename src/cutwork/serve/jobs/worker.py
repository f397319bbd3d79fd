"""The thread that owns an engine: takes requests in, steps, hands out what each step brought.

Nothing else touches the model while it runs. A step holds neither the GIL nor the event loop.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Piece, Request
from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.model import Model
from cutwork.engine.translation import translates
from cutwork.errors import CutworkError
from cutwork.serve.http.errors import ApiError
from cutwork.serve.metrics import Metrics

log = logging.getLogger("cutwork.serve")

PATIENCE = 3  # failed steps in a row after which the engine is not called ready any more


@dataclass
class Choice:
    """One sequence a client asked for: its prompt's token ids and the engine's options, None to generate nothing.

    score: report log-probabilities of the prompt's own tokens, with so many alternatives each.
    """

    prompt: list[int]
    options: GenerateOptions | None
    score: int | None = None


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of a prompt's tokens; None for the first."""

    logprobs: list[Logprob | None]


Event = tuple[int, Piece | Scored]


@dataclass(eq=False)
class Group:
    """The choices of one HTTP request, on their way; iterate to get (index of the choice, what came) as it comes."""

    worker: "Worker"
    choices: Sequence[Choice]
    deadline: float
    loop: asyncio.AbstractEventLoop
    client: str = ""
    arrived: float = field(default_factory=time.perf_counter)
    requests: list[Request | None] = field(default_factory=list)
    _events: "asyncio.Queue[Event | Exception]" = field(default_factory=asyncio.Queue)
    _open: int = 0

    def __post_init__(self) -> None:
        self._open = sum((choice.options is not None) + (choice.score is not None) for choice in self.choices)
        self.requests = [None] * len(self.choices)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while self._open:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            _, piece = event
            if isinstance(piece, Scored) or piece.finish_reason is not None:
                self._open -= 1
            yield event

    def put(self, event: "Event | Exception") -> None:
        """Hand something to whoever iterates; on the event loop only."""
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """End what is unfinished; harmless at any time."""
        if self._open:
            self.worker.cancel(self)


@dataclass(eq=False)
class _Running:
    group: Group
    index: int
    last: float  # when its latest token came


@dataclass(eq=False)
class _Scoring:
    group: Group
    index: int
    chunks: Iterator[list[Logprob | None]]
    found: list[Logprob | None] = field(default_factory=list)


class Worker:
    """An engine in its own thread.

    turn: a lock that the workers of one server share, so that two models do not compute at once on the same CPUs.
    queue: how many sequences may wait.
    """

    def __init__(self, name: str, model: Model, metrics: Metrics, *, queue: int, turn: threading.Lock) -> None:
        self.name, self.model, self.metrics = name, model, metrics
        self._queue, self._turn = queue, turn
        self._inbox: deque[Group] = deque()
        self._unwanted: deque[Group] = deque()
        self._running: dict[Request, _Running] = {}
        self._scoring: deque[_Scoring] = deque()
        self._wake = threading.Condition()
        self._stop_at: float | None = None  # once known, new requests are refused
        self._failures = 0
        self._preemptions = 0
        self._pace = 1.0  # smoothed seconds between finished sequences, for Retry-After
        self._finished = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests can be expected to succeed."""
        return self._thread.is_alive() and self._stop_at is None and self._failures < PATIENCE

    @property
    def waiting(self) -> int:
        """Sequences that have no place in the batch yet."""
        inbox = sum(len(group.choices) for group in tuple(self._inbox))
        return inbox + len(self.model.session.scheduler.waiting) + len(self._scoring)

    def submit(self, choices: Sequence[Choice], deadline: float, client: str = "") -> Group:
        """Queue the choices of one request; `deadline` in seconds from now. Call on the event loop.

        client: who asks, so that one who asks much does not keep others waiting.

        Raises ApiError: 429 if the queue is full, 503 if the server is stopping.
        """
        if self._stop_at is not None:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry=5)
        if self.waiting + len(choices) > self._queue + self.model.max_batch:
            self.metrics.rejected.labels(self.name).inc()
            seconds = min(60, max(1, math.ceil(self._pace * self.waiting)))
            raise ApiError(429, "too many requests are waiting; try again later", code="queue_full", retry=seconds)
        group = Group(self, choices, time.perf_counter() + deadline, asyncio.get_running_loop(), client)
        self._inbox.append(group)
        self._notify()
        return group

    def cancel(self, group: Group) -> None:
        """End a group's unfinished sequences before the next step."""
        self._unwanted.append(group)
        self._notify()

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        self._stop_at = time.perf_counter() + seconds
        self._notify()

    def join(self) -> None:
        """Wait for the thread, which ends once drained."""
        self._thread.join()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._busy or self._unwanted or self._stop_at is not None):
                    self._gauges()
                    self._wake.wait()
            if self._stop_at is not None and (not self._busy or time.perf_counter() >= self._stop_at):
                self._abandon(ApiError(503, "the server is shutting down", code="shutting_down"))
                return
            self._sweep()
            while self._inbox:
                self._start(self._inbox.popleft())
            self._gauges()
            try:
                with self._turn:
                    self._step()
                    self._score()
                self._failures = 0
            except Exception:
                log.exception("a step failed")
                self._failures += 1
                self._abandon(ApiError(500, "the server failed; its log says why"))

    @property
    def _busy(self) -> bool:
        return bool(self._inbox or self._running or self._scoring)

    def _start(self, group: Group) -> None:
        try:
            for index, choice in enumerate(group.choices):
                if choice.options is not None:
                    options: GenerateOptions = choice.options | {"client": group.client}
                    encoder = self.model.encoder
                    request = (
                        self.model.session.add(self.model.start_tokens, encoder.input(choice.prompt), **options)
                        if encoder
                        else self.model.session.add(choice.prompt, **options)
                    )
                    group.requests[index] = request
                    self._running[request] = _Running(group, index, group.arrived)
                if choice.score is not None:
                    chunks = self.model.token_logprobs(choice.prompt, choice.score)
                    self._scoring.append(_Scoring(group, index, chunks))
        except CutworkError as error:
            self._end(group)
            self._tell(group, ApiError(400, str(error)))
        except Exception:
            log.exception("a request could not be started")
            self._end(group)
            self._tell(group, ApiError(500, "the server failed; its log says why"))

    def _sweep(self) -> None:
        """End what nobody wants any more, and what is past its deadline."""
        while self._unwanted:
            group = self._unwanted.popleft()
            if group in self._inbox:
                self._inbox.remove(group)
                self.metrics.cancelled.labels(self.name).inc(len(group.choices))
            self.metrics.cancelled.labels(self.name).inc(self._end(group))
        now = time.perf_counter()
        late = {running.group for running in self._running.values() if now > running.group.deadline}
        late |= {scoring.group for scoring in self._scoring if now > scoring.group.deadline}
        for group in late:
            self.metrics.expired.labels(self.name).inc(self._end(group))
            self._tell(group, ApiError(504, "the request took longer than it may", code="timeout"))

    def _end(self, group: Group) -> int:
        """Free what a group holds; returns how many sequences were unfinished."""
        ended = 0
        for request in group.requests:
            if request is not None and self._running.pop(request, None) is not None:
                self.model.session.cancel(request)
                ended += 1
        for scoring in [s for s in self._scoring if s.group is group]:
            scoring.chunks.close()  # type: ignore[attr-defined]  # a generator
            self._scoring.remove(scoring)
        return ended

    def _abandon(self, error: ApiError) -> None:
        """End everything with an error."""
        groups = {running.group for running in self._running.values()} | {s.group for s in self._scoring}
        groups |= set(self._inbox)
        self._inbox.clear()
        for group in groups:
            self.metrics.failed.labels(self.name).inc(self._end(group))
            self._tell(group, error)

    def _step(self) -> None:
        began = time.perf_counter()
        pieces = self.model.session.step()
        now = time.perf_counter()
        if pieces:
            self.metrics.step_time.labels(self.name).observe(now - began)
            self.metrics.batch_size.labels(self.name).observe(len(pieces))
            self.metrics.generation_tokens.labels(self.name).inc(len(pieces))
        for piece in pieces:
            piece.request.pieces.clear()
            running = self._running[piece.request]
            if len(piece.request.tokens) == 1:
                self.metrics.first_token.labels(self.name).observe(now - running.group.arrived)
            else:
                self.metrics.inter_token.labels(self.name).observe(now - running.last)
            running.last = now
            if piece.finish_reason is not None:
                del self._running[piece.request]
                self._record(piece.request, piece.finish_reason, now - running.group.arrived)
            self._tell(running.group, (running.index, piece))

    def _score(self) -> None:
        """One chunk of one prompt whose own log-probabilities are wanted."""
        if not self._scoring:
            return
        scoring = self._scoring[0]
        try:
            chunk = next(scoring.chunks, None)
        except CutworkError as error:
            self._end(scoring.group)
            self._tell(scoring.group, ApiError(503, str(error), code="cache_full", retry=1))
            return
        if chunk is not None:
            scoring.found += chunk
            return
        self._scoring.popleft()
        self._tell(scoring.group, (scoring.index, Scored(scoring.found)))

    def _tell(self, group: Group, event: "Event | Exception") -> None:
        try:
            group.loop.call_soon_threadsafe(group.put, event)
        except RuntimeError:  # the event loop is gone: nobody listens
            self._unwanted.append(group)

    def _record(self, request: Request, reason: str, latency: float) -> None:
        m, result = self.metrics, request.result()
        m.finished.labels(self.name, reason).inc()
        m.prompt_tokens.labels(self.name).inc(result.prompt_tokens)
        m.cache_queries.labels(self.name).inc(result.prompt_tokens)
        m.cache_hits.labels(self.name).inc(result.timings.reused_tokens)
        m.queue_time.labels(self.name).observe(result.timings.queued)
        m.latency.labels(self.name).observe(latency)
        if len(result.tokens) > 1:
            m.per_token.labels(self.name).observe(result.timings.decode / (len(result.tokens) - 1))
        now = time.perf_counter()
        self._pace += 0.1 * (now - self._finished - self._pace)
        self._finished = now

    def _gauges(self) -> None:
        m, scheduler = self.metrics, self.model.session.scheduler
        m.running.labels(self.name).set(len(scheduler.running))
        m.waiting.labels(self.name).set(self.waiting)
        m.cache_usage.labels(self.name).set(1 - scheduler.cache.free / scheduler.cache.blocks)
        m.preemptions.labels(self.name).inc(scheduler.preemptions - self._preemptions)
        self._preemptions = scheduler.preemptions


def card(worker: Worker) -> dict[str, Any]:
    """What the page and /v1/models tell of a model."""
    model = worker.model
    encodings = sorted({f"{weight.encoding} {weight.dtype}" for weight in model.weights.values()})
    return {
        "architecture": model.config.get("model_type"),
        "sparsity": round(model.sparsity, 4),
        "megabytes": round(model.memory_bytes["weights"] / 1e6, 1),
        "encodings": encodings,
        "context": model.max_context,
        "threads": model.threads,
        "isa": model.isa,
        "cache_dtype": model.cache_dtype,
        "transcribe": model.architecture.kind == "speech",
        "translate": translates(model.config),
        "chat": bool(getattr(model.tokenizer, "chat_template", None)),
    }
