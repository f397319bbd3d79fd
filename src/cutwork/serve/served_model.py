"""The models of a server: found by name, each with its worker, tokenizer lock and grammars."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cutwork.engine.model import Model
from cutwork.serve.grammar import Grammars
from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.transcriber import Listener
from cutwork.serve.jobs.worker import Worker
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics
from cutwork.serve.tokens import Tokens


@dataclass(frozen=True)
class Engine:
    """A served model."""

    name: str
    worker: Worker
    tokens: Tokens
    grammars: Grammars
    listener: Listener | None = None  # of a speech model, which its worker must leave alone
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def model(self) -> Model:
        """The engine's model; only its worker, or its listener, may run it."""
        return self.worker.model


class Engines:
    """All models of a server; starts their workers."""

    def __init__(self, models: Mapping[str, Model], metrics: Metrics, limits: Limits) -> None:
        turn = threading.Lock()
        for model in models.values():
            model.session.scheduler.prefill_budget.target = limits.pace
        self.all: dict[str, Engine] = {}
        for name, model in models.items():
            worker = Worker(name, model, metrics, queue=limits.queue, turn=turn)
            listener = None
            if model.architecture.kind == "speech":
                longest = limits.audio_seconds
                listener = Listener(name, model, metrics, queue=limits.queue, turn=turn, longest=longest)
            self.all[name] = Engine(name, worker, Tokens(model), Grammars(model), listener)

    def find(self, name: str | None) -> Engine:
        """A model by its name; without one, the only or first. Raises ApiError (404)."""
        if name is None:
            return next(iter(self.all.values()))
        if name not in self.all:
            known = ", ".join(self.all)
            raise ApiError(
                404, f"there is no model of that name here; served: {known}", param="model", code="model_not_found"
            )
        return self.all[name]

    def find_text(self, name: str | None) -> Engine:
        """A model that writes text; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, False, "hears speech; use /v1/audio/transcriptions")

    def find_speech(self, name: str | None) -> Engine:
        """A model that hears speech; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, True, "does not hear speech; use a Whisper")

    def _find(self, name: str | None, speech: bool, instead: str) -> Engine:
        fitting = [engine.name for engine in self.all.values() if (engine.listener is not None) is speech]
        engine = self.find(name if name is not None or not fitting else fitting[0])
        if engine.name not in fitting:
            raise ApiError(400, f"the model {engine.name} {instead}", param="model")
        return engine

    @property
    def ready(self) -> bool:
        """Whether every worker is at work."""
        return bool(self.all) and all(engine.worker.ready for engine in self.all.values())

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        for engine in self.all.values():
            engine.worker.drain(seconds)
            if engine.listener:
                engine.listener.drain(seconds)

    def join(self) -> None:
        """Wait until all workers have ended, after `drain`."""
        for engine in self.all.values():
            engine.worker.join()
            if engine.listener:
                engine.listener.join()
