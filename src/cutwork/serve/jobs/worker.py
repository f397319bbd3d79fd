"""What a request for text is made of, and the thread that takes it in, steps, and hands out what each step brought.

Nothing else touches the model while it runs. A step holds neither the GIL nor the event loop.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Piece, Request
from cutwork.engine.decoding.sampling import Logprob, NotFinite
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.serve.http.errors import ApiError, server_failed
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.jobs.job import Job, ModelThread
from cutwork.serve.jobs.scoring import PromptScorer
from cutwork.serve.metrics import ModelMetrics

log = logging.getLogger("cutwork.serve")


@dataclass
class Choice:
    """One sequence a client asked for: its prompt's token ids and the engine's options, None to generate nothing.

    score: report log-probabilities of the prompt's own tokens, with so many alternatives each, by the `adapter` if it
    names one.
    """

    prompt: list[int]
    options: GenerateOptions | None
    score: int | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of a prompt's tokens; None for the first."""

    logprobs: list[Logprob | None]


class TextJob(Job[tuple[int, Piece | Scored]]):
    """The choices of one request. Its events are (index of the choice, what came of it).

    requests: the engine's, one per choice, once it has taken them; None for a choice that generates nothing.
    """

    def __init__(self, choices: Sequence[Choice], deadline: float, client: str = "") -> None:
        places = sum((choice.options is not None) + (choice.score is not None) for choice in choices)
        super().__init__(places, deadline, client)
        self.choices = choices
        self.requests: list[Request | None] = [None] * len(choices)

    async def wait(self) -> list[Request]:
        """The engine's requests, once all choices are finished."""
        async for _ in self:
            pass
        return self.started

    @property
    def started(self) -> list[Request]:
        """The engine's requests there are."""
        return [request for request in self.requests if request is not None]


@dataclass(eq=False)
class _Place:
    """Where an engine's request belongs."""

    job: TextJob
    index: int
    last: float | None = None  # when its latest token came


class Worker(ModelThread[TextJob]):
    """Continuous batching for many clients. queue: sequences that may wait beside a full batch."""

    def __init__(self, model: Model, metrics: ModelMetrics, *, queue: int, turn: FairLock) -> None:
        super().__init__(model, metrics, limit=queue + model.max_batch, turn=turn)
        self._places: dict[Request, _Place] = {}
        self._scorer: PromptScorer[TextJob] = PromptScorer(model)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.model.session.scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences that have no place in the batch yet."""
        # Backwards, so that none that goes on meanwhile counts twice.
        return len(self._scorer) + len(self.model.session.scheduler.waiting) + super().waiting

    @property
    def taken(self) -> int:
        """Sequences in the batch, a search as many as it has beams, and those that wait."""
        return self.running + self.waiting

    def work(self) -> None:
        """One step for all."""
        while (job := self.take()) is not None:
            self._start(job)
        if self.model.session.busy or self._scorer:  # else nothing is computed, and nothing learnt of the engine
            try:
                with self.turn:
                    began = time.perf_counter()
                    sound = self._step()
                    self._score(time.perf_counter() - began)
                self.learn(sound=sound)
            except Exception:
                log.exception("a step failed")
                self.learn(sound=False)
                for job in self.open:
                    self.fail(job)
        self.note_load()

    def release(self, job: TextJob) -> None:
        """End a job's sequences in the engine."""
        for request in job.started:
            if self._places.pop(request, None) is not None:
                self.model.session.cancel(request)
        self._scorer.release(job)

    def _start(self, job: TextJob) -> None:
        session, encoder = self.model.session, self.model.encoder
        try:
            for index, choice in enumerate(job.choices):
                if choice.options is not None:
                    prompt = self.model.start_tokens if encoder else choice.prompt
                    memory = encoder.input(choice.prompt) if encoder else None
                    options: GenerateOptions = choice.options | {"client": job.client}
                    request = session.add(prompt, memory, **options)
                    job.requests[index] = request
                    self._places[request] = _Place(job, index)
                if choice.score is not None:
                    self._scorer.add(job, index, choice.prompt, choice.score, choice.adapter, client=job.client)
        except CutworkError as error:
            self.fail(job, ApiError(400, str(error)))
        except Exception:
            log.exception("a request could not be started")
            self.fail(job)

    def _step(self) -> bool:
        """Hand out what a step brought; whether the model gave numbers to choose by, for anybody."""
        began = time.perf_counter()
        pieces = self.model.session.step()
        now = time.perf_counter()
        sequences, tokens = len({piece.request for piece in pieces}), sum(map(_tokens, pieces))
        self.metrics.step(sequences, tokens, now - began, self.model.session.scheduler)
        for piece in pieces:
            piece.request.pieces.clear()
            place = self._places.get(piece.request)
            if place is None:  # of a job that failed with an earlier piece
                continue
            job = place.job
            if piece.request.error is not None:
                self.fail(job, _as_api_error(piece.request.error))
                continue
            if place.last is None:
                self.metrics.first_token(now - job.arrived)
            else:
                self.metrics.next_token(now - place.last)
            place.last = now
            job.send((place.index, piece))
            if piece.finish_reason is not None:
                del self._places[piece.request]
                self.metrics.sequence(piece.request.result(), now - job.arrived)
                self.finish(job)
        return not pieces or not all(isinstance(piece.request.error, NotFinite) for piece in pieces)

    def _score(self, taken: float) -> None:
        """A chunk of a prompt's own tokens behind a step that took so many seconds."""
        if not self._scorer:
            return
        job, index = self._scorer.first
        try:
            logprobs = self._scorer.step(self.running, taken)
        except NotFinite as error:
            self.fail(job, _as_api_error(error))
            return
        except CutworkError as error:
            if self.model.session.busy:  # with what holds the memory, perhaps the same request's own answer
                self._scorer.restart()
            else:
                self.fail(job, ApiError(503, str(error), code="cache_full", retry=1))
            return
        if logprobs is not None:
            job.send((index, Scored(logprobs)))
            self.finish(job)


def _tokens(piece: Piece) -> int:
    """Tokens that a piece brings: all of a beam search's answer, none with an error."""
    if piece.finish_reason == "error":
        return 0
    return len(piece.request.tokens) if piece.request.hypotheses else 1


def _as_api_error(error: BaseException) -> ApiError:
    """What a client is told of what ended its sequence; the log says the rest."""
    if isinstance(error, CutworkError):
        status = 500 if isinstance(error, NotFinite) else 400
        log.log(logging.ERROR if status == 500 else logging.INFO, "a sequence ended: %s", error)
        return ApiError(status, str(error))
    log.error("a sequence failed", exc_info=error)
    return server_failed()
