"""A model of a server, with the thread that runs it and its tokenizer, and what it is for."""

from dataclasses import dataclass, replace

from cutwork.engine.infill import InfillFormat, infill_format
from cutwork.engine.model import Model
from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.engine.translation import translates
from cutwork.serve.grammar import Grammars
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.jobs.reader import Reader
from cutwork.serve.jobs.transcriber import Transcriber
from cutwork.serve.jobs.worker import Worker
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import ModelMetrics
from cutwork.serve.tokens import Tokens


@dataclass(frozen=True)
class Abilities:
    """What a model is for."""

    writes: bool
    hears: bool
    embeds: bool
    classifies: bool
    translates: bool

    @property
    def where(self) -> str:
        """What it does, and by which route."""
        if self.hears:
            return "hears speech; use /v1/audio/transcriptions"
        if self.writes:
            return "writes text; use /v1/completions"
        return (
            "makes vectors of texts; use /v1/embeddings"
            if self.embeds
            else "gives classes of texts; use /classify or /v1/rerank"
        )


@dataclass(frozen=True)
class ServedModel:
    """A model under its name, or that of its `adapter` which then answers. Only its `thread` may run it.

    infill: how it fills in the middle, if it can.
    """

    name: str
    model: Model
    thread: Worker | Transcriber | Reader
    tokens: Tokens
    grammars: Grammars
    infill: InfillFormat | None = None
    adapter: str | None = None

    def under(self, name: str | None) -> "ServedModel":
        """The same by the name that somebody asked for, None for its own."""
        return self if name in (None, self.name) else replace(self, name=name, adapter=name)

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
    def abilities(self) -> Abilities:
        """What it is for."""
        return Abilities(
            writes=isinstance(self.thread, Worker),
            hears=isinstance(self.thread, Transcriber),
            embeds=self.model.embedder is not None,
            classifies=self.model.classifier is not None,
            translates=translates(self.model.config),
        )

    def close(self) -> None:
        """Wait until its thread has ended, after `drain`."""
        self.thread.join()
        self.tokens.close()


def start(name: str, model: Model, metrics: ModelMetrics, limits: Limits, turn: FairLock) -> ServedModel:
    """A model with its thread running. turn: held by whichever of a server's threads computes.

    Raises CutworkError for speech without its special tokens.
    """
    model.session.scheduler.prefill_budget.target = limits.pace
    thread: Worker | Transcriber | Reader
    if model.architecture.kind == "speech":
        vocabulary_of(model.path, model.config, model.tokenizer)  # what it lacks is told before its thread runs
        queued = {"queue": limits.queue, "queue_bytes": limits.audio_queue_bytes}
        thread = Transcriber(model, metrics, **queued, turn=turn, longest=limits.audio_seconds)
    elif model.states is not None:
        waiting = {"queue": limits.queue, "queue_tokens": limits.queue_tokens}
        thread = Reader(model, model.states, metrics, **waiting, turn=turn)
    else:
        thread = Worker(model, metrics, queue=limits.queue, turn=turn)
    thread.start()
    return ServedModel(name, model, thread, Tokens(model), Grammars(model), infill_format(model.tokenizer))
