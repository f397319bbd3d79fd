"""What transcription needs of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Process = Callable[[np.ndarray, Sequence[int]], None]  # changes scores float32 [V], given the answer so far


@dataclass(frozen=True)
class Search:
    """How to look for an answer: `samples` at a temperature above 0, otherwise `beams` (1: greedy)."""

    temperature: float = 0.0
    beams: int = 1
    samples: int = 1
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """Tokens without the one that ends them, and their log-probability per token, that one included."""

    tokens: list[int]
    average: float


class Decoder(Protocol):
    """A speech model: its encoder makes memories, its decoder continues prompts while it looks at one."""

    def encode(self, spectrogram: np.ndarray) -> Any:
        """A handle of what the encoder makes of a window, float32 [mels, frames]."""

    def logits(self, memory: Any, prompt: Sequence[int]) -> np.ndarray:
        """Logits float32 [V] of the token after a prompt."""

    def answer(self, memory: Any, prompt: Sequence[int], search: Search, process: Process) -> Answer:
        """The best answer found, its scores changed by `process` before each choice."""

    def attention(
        self, memory: Any, tokens: Sequence[int], heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """How much each token looks at each of the window's encoded frames, and what the model expects after it.

        `heads` are (layer, head) of the decoder's cross attention. Returns probabilities float32 [heads, tokens, frames
        / 2] and logits float32 [tokens, V]. Raises CutworkError for a head that is not there.
        """
