"""The models of a server: found by name, each with the thread that runs it and its tokenizer."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cutwork.engine.model import Model
from cutwork.serve.grammar import Grammars
from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.reader import Reader
from cutwork.serve.jobs.transcriber import Transcriber
from cutwork.serve.jobs.worker import Worker
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics, ModelMetrics
from cutwork.serve.tokens import Tokens


@dataclass(frozen=True)
class ServedModel:
    """A model under its name. Only its `thread` may run it."""

    name: str
    model: Model
    thread: Worker | Transcriber | Reader
    tokens: Tokens
    grammars: Grammars
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def worker(self) -> Worker:
        """The thread of a model that writes text."""
        assert isinstance(self.thread, Worker)
        return self.thread

    @property
    def transcriber(self) -> Transcriber:
        """The thread of a model that hears speech."""
        assert isinstance(self.thread, Transcriber)
        return self.thread

    @property
    def reader(self) -> Reader:
        """The thread of a model that reads texts and writes none."""
        assert isinstance(self.thread, Reader)
        return self.thread

    @property
    def hears_speech(self) -> bool:
        """Whether it transcribes instead of writing text."""
        return isinstance(self.thread, Transcriber)

    @property
    def embeds(self) -> bool:
        """Whether it makes vectors of texts."""
        return self.model.embedder is not None

    @property
    def classifies(self) -> bool:
        """Whether it gives classes of texts."""
        return self.model.classifier is not None

    @property
    def does(self) -> str:
        """What it is for, and where."""
        if self.hears_speech:
            return "hears speech; use /v1/audio/transcriptions"
        if isinstance(self.thread, Worker):
            return "writes text; use /v1/completions"
        return (
            "makes vectors of texts; use /v1/embeddings"
            if self.embeds
            else "gives classes of texts; use /classify or /v1/rerank"
        )


class ServedModels:
    """All models of a server; starts their threads."""

    def __init__(self, models: Mapping[str, Model], metrics: Metrics, limits: Limits) -> None:
        turn = threading.Lock()
        self.all: dict[str, ServedModel] = {}
        for name, model in models.items():
            model.session.scheduler.prefill_budget.target = limits.pace
            counts = ModelMetrics(metrics, name)
            thread: Worker | Transcriber | Reader
            if model.architecture.kind == "speech":
                longest = limits.audio_seconds
                queued = {"queue": limits.queue, "queue_bytes": limits.audio_queue_bytes}
                thread = Transcriber(model, counts, **queued, turn=turn, longest=longest)
            elif model.states is not None:
                waiting = {"queue": limits.queue, "queue_tokens": limits.queue_tokens}
                thread = Reader(model, model.states, counts, **waiting, turn=turn)
            else:
                thread = Worker(model, counts, queue=limits.queue, turn=turn)
            thread.start()
            self.all[name] = ServedModel(name, model, thread, Tokens(model), Grammars(model))

    def find(self, name: str | None) -> ServedModel:
        """A model by its name; without one, the only or first. Raises ApiError (404)."""
        if name is None:
            return next(iter(self.all.values()))
        if name not in self.all:
            known = ", ".join(self.all)
            raise ApiError(
                404, f"there is no model of that name here; served: {known}", param="model", code="model_not_found"
            )
        return self.all[name]

    def find_text(self, name: str | None) -> ServedModel:
        """A model that writes text; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, lambda served: isinstance(served.thread, Worker))

    def find_speech(self, name: str | None) -> ServedModel:
        """A model that hears speech; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, lambda served: served.hears_speech)

    def find_embedding(self, name: str | None) -> ServedModel:
        """A model that makes vectors of texts; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, lambda served: served.embeds)

    def find_classifier(self, name: str | None) -> ServedModel:
        """A model that gives classes of texts; without a name the first. Raises ApiError (400, 404)."""
        return self._find(name, lambda served: served.classifies)

    def _find(self, name: str | None, fits: Callable[[ServedModel], bool]) -> ServedModel:
        fitting = next((served.name for served in self.all.values() if fits(served)), None)
        served = self.find(fitting if name is None else name)
        if not fits(served):
            raise ApiError(400, f"the model {served.name} {served.does}", param="model")
        return served

    @property
    def ready(self) -> bool:
        """Whether every model can take requests."""
        return bool(self.all) and all(served.thread.ready for served in self.all.values())

    @property
    def alive(self) -> bool:
        """Whether every model's thread runs."""
        return all(served.thread.alive for served in self.all.values())

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        for served in self.all.values():
            served.thread.drain(seconds)

    def join(self) -> None:
        """Wait until all threads have ended, after `drain`, and let the models go: FastAPI's caches keep the routes."""
        for served in self.all.values():
            served.thread.join()
            served.tokens.close()
        self.all.clear()
