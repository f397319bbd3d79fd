"""What a request for text is made of: choices, each a sequence of the engine, and what comes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Piece, Request
from cutwork.engine.decoding.sampling import Logprob
from cutwork.serve.jobs.job import Job


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
