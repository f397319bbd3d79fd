"""What parts of the engine need of a loaded model; `Model` has all of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cutwork.engine.classification.classifier import Classifier
from cutwork.engine.decoding.options import GenerateOptions
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.embedding.embedder import Embedder
from cutwork.engine.encoder import EncodedInput, Encoder


class Reads(Protocol):
    """A model that writes no text; `embedder` and `classifier` are None of one that does not do what they do."""

    config: dict[str, Any]
    embedder: Embedder | None
    classifier: Classifier | None


class Answers(Protocol):
    """A model that answers what its encoder has read, as translation and transcription ask it."""

    path: Path
    config: dict[str, Any]
    tokenizer: Any
    encoder: Encoder | None
    start_tokens: list[int]
    stop_tokens: frozenset[int]
    max_context: int
    max_batch: int
    usual_beams: int

    def encode(self, text: str) -> list[int]:
        """See `Model.encode`."""

    def answer_each(self, asked: Sequence[tuple[Sequence[int], GenerateOptions]]) -> list[Generation]:
        """See `Model.answer_each`."""

    def encode_input(self, source: np.ndarray) -> EncodedInput:
        """See `Model.encode_input`."""

    def respond(
        self,
        memory: EncodedInput,
        prompt: Sequence[int],
        each: Sequence[GenerateOptions],
        check: Callable[[], None] | None = None,
    ) -> list[Generation]:
        """See `Model.respond`."""

    def logits(self, tokens: Sequence[int], memory: EncodedInput | None = None, *, first: int = 0) -> np.ndarray:
        """See `Model.logits`."""

    def cross_attention(
        self, tokens: Sequence[int], memory: EncodedInput, heads: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Model.cross_attention`."""
