"""The thread of a model that reads texts and writes none: those of all requests, as many in a step as fit."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.embedding.texts import Tokens
from cutwork.engine.model import Model
from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.jobs.job import Job, ModelThread
from cutwork.serve.metrics import ModelMetrics

log = logging.getLogger("cutwork.serve")


class Reading(Job[None]):
    """The texts of one request. `found` is what `take` makes of the hidden states [T, width] of each, or of its last
    token's [1, width] only if that is all it needs."""

    def __init__(
        self,
        inputs: Sequence[Tokens],
        take: Callable[[np.ndarray], np.ndarray],
        deadline: float,
        client: str = "",
        *,
        last: bool = False,
    ) -> None:
        super().__init__(1, deadline, client)
        self.inputs, self.take, self.last = inputs, take, last
        self.tokens = sum(map(len, inputs))
        self.found: list[np.ndarray] = []

    async def wait(self) -> list[np.ndarray]:
        """What was found in each text, once all are read."""
        async for _ in self:
            pass
        return self.found


class Reader(ModelThread[Reading]):
    """Takes a text of each request in turn, so that a request with many does not keep others waiting.

    queue: requests that may wait, with `queue_tokens` in all.
    """

    def __init__(
        self,
        model: Model,
        states: HiddenStates,
        metrics: ModelMetrics,
        *,
        queue: int,
        queue_tokens: int,
        turn: FairLock,
    ) -> None:
        super().__init__(model, metrics, limit=queue + 1, turn=turn)
        self._states, self._queue_tokens = states, queue_tokens
        self._reading: list[Reading] = []

    def admit(self, job: Reading) -> None:
        """Raise ApiError (429) if what waits is too long in all; a single request of the longest kind is let in."""
        waiting = sum(other.tokens for other in self.open)
        own = sum(other.tokens for other in self.open if other.client == job.client)
        part = self._queue_tokens // len({job.client, *(other.client for other in self.open)})
        if waiting and waiting + job.tokens > self._queue_tokens and own + job.tokens > part:
            self.metrics.refused()
            raise ApiError(429, "too many texts are waiting; try again later", code="queue_full", retry=1)

    def work(self) -> None:
        """One step."""
        while (job := self.take()) is not None:
            self._reading.append(job)
        self.note_load()
        if not self._reading:
            return
        batch = self._next()
        began = time.perf_counter()
        try:
            with self.turn:
                inputs = [job.inputs[index] for job, index in batch]
                steps = list(self._states.of(inputs, last=all(job.last for job, _ in batch)))
            states = {place: found for step in steps for place, found in step.items()}
            for place, (job, _) in enumerate(batch):
                job.found.append(job.take(states[place]))
        except Exception:
            log.exception("a step failed")
            self.learn(sound=False)
            for job in {job for job, _ in batch}:
                self.fail(job)
            return
        self.learn(sound=True)
        self.metrics.read_step(len(batch), time.perf_counter() - began)
        for job in [job for job in self._reading if len(job.found) == len(job.inputs)]:
            self._reading.remove(job)
            self.metrics.read(job.tokens, time.perf_counter() - job.arrived)
            self.finish(job)

    def _next(self) -> list[tuple[Reading, int]]:
        """Requests and which of their texts: one of each in turn, while they fit into a step; at least one.

        Another request is the first every time, so that each comes to its turn.
        """
        self._reading.append(self._reading.pop(0))
        batch: list[tuple[Reading, int]] = []
        turns = deque((job, len(job.found)) for job in self._reading)
        tokens = 0
        while turns:
            job, index = turns.popleft()
            tokens += len(job.inputs[index])
            if batch and tokens > self._states.max_tokens:
                break
            batch.append((job, index))
            if index + 1 < len(job.inputs):
                turns.append((job, index + 1))
        return batch

    def release(self, job: Reading) -> None:
        """What has been found of a request is forgotten."""
        if job in self._reading:
            self._reading.remove(job)
