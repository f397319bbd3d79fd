"""Log-probabilities of prompts' own tokens, computed between the steps of what is generated, a chunk at a time."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import cast

from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.model import Model
from cutwork.serve.jobs.text_job import Scored, TextJob


@dataclass(eq=False)
class _Prompt:
    job: TextJob
    index: int
    chunks: Generator[list[Logprob | None]]
    logprobs: list[Logprob | None] = field(default_factory=list)


class PromptScorer:
    """The prompts to score of one model, first come first served."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._prompts: deque[_Prompt] = deque()

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def job(self) -> TextJob:
        """Whose prompt is the next."""
        return self._prompts[0].job

    def add(self, job: TextJob, index: int, alternatives: int) -> None:
        """Queue the prompt of a job's choice."""
        chunks = self._model.token_logprobs(job.choices[index].prompt, alternatives)
        self._prompts.append(_Prompt(job, index, cast(Generator[list[Logprob | None]], chunks)))

    def step(self) -> bool:
        """Score one chunk of the first prompt; whether that was its last, which its job is sent then.

        Raises CutworkError if memory is short.
        """
        first = self._prompts[0]
        chunk = next(first.chunks, None)
        if chunk is not None:
            first.logprobs += chunk
            return False
        self._prompts.popleft()
        first.job.send((first.index, Scored(first.logprobs)))
        return True

    def release(self, job: TextJob) -> None:
        """Forget a job's prompts and free their memory."""
        for prompt in [prompt for prompt in self._prompts if prompt.job is job]:
            prompt.chunks.close()
            self._prompts.remove(prompt)
