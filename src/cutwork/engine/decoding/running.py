"""A sequence of tokens on its way through the scheduler, and what a step chose for it."""

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.decoding.beam import BeamSearch
from cutwork.engine.decoding.blocks import Root, Table
from cutwork.engine.decoding.sampling import Logprob, Sampler
from cutwork.engine.decoding.speculative import Guess
from cutwork.engine.encoder import EncodedInput

FinishReason = Literal["stop", "length", "cancelled", "error"]


NO_TOKEN = -1


@dataclass(eq=False)
class Running:
    """A sequence on its way: `tokens` are the prompt and what was chosen so far, `memory` what an encoder reads.

    The beams of one search are sequences too; they share `search` and `beams`, whose first member stands for all.
    """

    tokens: list[int]
    prompt_tokens: int
    limit: int  # len(tokens) at which it ends with "length"
    stop_tokens: frozenset[int]
    sampler: Sampler
    priority: int = 0  # lower is served first
    client: str = ""  # whose it is: those with the fewest running sequences are served first
    cache_salt: str = ""  # blocks of equal prompts are shared by those with the same salt
    memory: EncodedInput | None = None
    adapter: int = NO_ADAPTER
    table: Table = field(default_factory=Table)
    memory_table: Table = field(default_factory=Table)
    row: int = -1  # of the block tables while running
    reused_tokens: int = 0  # of the prompt, found in the cache
    finish_reason: FinishReason | None = None
    error: BaseException | None = None  # what ended it, with the reason "error"
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None
    search: BeamSearch | None = None
    beams: list["Running"] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)  # rows for the beams to come
    logits: np.ndarray | None = None  # of a beam whose siblings are still being computed
    guesses: list[Guess] = field(default_factory=list)  # of the draft model, for the next step
    guessed: int = 0  # how many there were in all
    accepted: int = 0  # and how many the target chose too

    def __post_init__(self) -> None:
        self.beams = self.beams or [self]

    @property
    def root(self) -> Root:
        """What its keys and values depend on besides tokens."""
        return (self.memory.id if self.memory else 0, self.cache_salt, self.adapter)

    def alike(self, other: "Running") -> bool:
        """Whether equal tokens have equal keys and values that the two may share."""
        return self.root == other.root

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not in the cache yet."""
        return len(self.tokens) - self.table.length


@dataclass(frozen=True)
class Chosen:
    """A step's result for one sequence: the token, and why the sequence ended if it did; after an error NO_TOKEN."""

    sequence: Running
    token: int
    logprob: Logprob | None
    finish_reason: FinishReason | None
