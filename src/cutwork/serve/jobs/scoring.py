"""Log-probabilities of prompts' own tokens, computed between the steps of what is generated, a chunk at a time."""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar, cast

from cutwork.engine.decoding.prefill_budget import PrefillBudget
from cutwork.engine.decoding.sampling import Logprob
from cutwork.engine.model import Model

Owner = TypeVar("Owner")


@dataclass(eq=False)
class _Prompt(Generic[Owner]):
    owner: Owner
    client: str
    index: int
    begin: Callable[[], Generator[list[Logprob | None]]]
    chunks: Generator[list[Logprob | None]]
    logprobs: list[Logprob | None] = field(default_factory=list)


class PromptScorer(Generic[Owner]):
    """The prompts to score of one model, one of each client in turn; each is number `index` of its owner's."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._budget, self._beside = PrefillBudget(0.0), 0
        self._prompts: deque[_Prompt[Owner]] = deque()

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def first(self) -> tuple[Owner, int]:
        """Owner and index of the prompt whose turn it is."""
        return self._prompts[0].owner, self._prompts[0].index

    def add(
        self,
        owner: Owner,
        index: int,
        prompt: Sequence[int],
        alternatives: int,
        adapter: str | None = None,
        *,
        client: str = "",
    ) -> None:
        """Queue a prompt, whose tokens are to be told with the likeliest `alternatives` in their places."""
        score = partial(self._model.token_logprobs, prompt, alternatives, adapter=adapter, most=self._most)
        begin = cast(Callable[[], Generator[list[Logprob | None]]], score)
        self._prompts.append(_Prompt(owner, client, index, begin, begin()))

    def step(self, beside: int = 0, taken: float = 0.0) -> list[Logprob | None] | None:
        """Score one chunk of the first prompt; all of it once that was the last.

        beside: how many sequences are being decoded, in steps of which the last took so many seconds: a chunk is then
        as small as keeps both within the scheduler's `prefill_budget.target`. Raises CutworkError if memory is short;
        then it may be begun again (`restart`).
        """
        self._beside, self._budget.target = beside, self._model.session.scheduler.prefill_budget.target
        if beside:
            self._budget.note(beside, 0, taken)
        first, began = self._prompts[0], time.perf_counter()
        chunk = next(first.chunks, None)
        if chunk is not None:
            self._budget.note(0, len(chunk), time.perf_counter() - began)
            first.logprobs += chunk
            return None
        self._prompts.popleft()
        self._prompts = deque(sorted(self._prompts, key=lambda prompt: prompt.client == first.client))
        return first.logprobs

    def _most(self, chunk: int) -> int:
        return self._budget.tokens(self._beside, chunk)

    def restart(self) -> None:
        """Begin the first prompt again."""
        first = self._prompts[0]
        first.chunks.close()
        first.chunks, first.logprobs = first.begin(), []

    def release(self, owner: Owner) -> None:
        """Forget an owner's prompts and free their memory."""
        for prompt in [prompt for prompt in self._prompts if prompt.owner is owner]:
            prompt.chunks.close()
            self._prompts.remove(prompt)
