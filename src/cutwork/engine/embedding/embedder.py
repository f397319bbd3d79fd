"""Texts into vectors."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np

from cutwork.engine.embedding.description import Description
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.embedding.pooling import MODES, normalized, pool
from cutwork.engine.embedding.texts import TextReader, Tokens
from cutwork.errors import CutworkError, check_known

EmbedProgress = Callable[[Mapping[int, np.ndarray]], None]
Input = str | Sequence[int]


class EmbedOptions(TypedDict, total=False):
    """Keywords of `Model.embed`, which says what they mean."""

    prompt_name: str | None
    prompt: str | None
    pooling: str | None
    normalize: bool | None
    dimensions: int | None


class Embedder:
    """Makes vectors as a `Description` says, of texts of at most `max_length` tokens.

    check: raises CutworkError for tokens that the model does not know. May be used from several threads.
    """

    def __init__(
        self,
        states: HiddenStates,
        tokenizer: Any,
        description: Description,
        max_length: int,
        check: Callable[[Sequence[int]], None],
    ) -> None:
        self.states, self._tokenizer, self._check = states, tokenizer, check
        self.description, self.max_length = description, max_length

    @cached_property
    def reader(self) -> TextReader:
        """Reads texts; CutworkError if the model has no tokenizer for them."""
        if self._tokenizer is None:
            raise CutworkError("this model directory has no tokenizer; give token ids instead of text")
        return TextReader(self._tokenizer, self.max_length, lower=self.description.lower)

    @property
    def width(self) -> int:
        """Numbers of a vector, unless somebody says otherwise."""
        return self._check_width({}, self.description.pooling)

    def read(self, inputs: Sequence[Input], **options: Unpack[EmbedOptions]) -> list[Tokens]:
        """What the model reads of each: a text is cut at `max_length`, token ids are taken as they are.

        Raises CutworkError for what is empty, too many ids, and a prompt that is not known or not for this model.
        """
        before = self._prompt(options.get("prompt_name"), options.get("prompt"))
        texts = iter(self.reader.read([before + i for i in inputs if isinstance(i, str)]) if _any_text(inputs) else ())
        found = [next(texts) if isinstance(each, str) else Tokens.of_ids(each) for each in inputs]
        for number, tokens in enumerate(found):
            if not len(tokens):
                raise CutworkError(f"input {number + 1} is empty; give at least one token")
            if len(tokens) > self.max_length:
                raise CutworkError(
                    f"input {number + 1} has {len(tokens)} tokens, but this model reads at most {self.max_length}"
                )
            self._check(tokens.ids.tolist())
        return found

    def vectors(
        self, inputs: Sequence[Tokens], progress: EmbedProgress | None = None, **options: Unpack[EmbedOptions]
    ) -> np.ndarray:
        """Float32 [n, width] of what was read; `progress` is called with the new ones by their place."""
        check_known(options, EmbedOptions.__annotations__)
        modes = self._modes(options)
        width = self._check_width(options, modes)
        result = np.empty((len(inputs), width), np.float32)
        for states in self.states.of(inputs, last=modes == ("lasttoken",)):
            vectors = self._finish(np.stack([pool(hidden, modes) for hidden in states.values()]), options)
            result[list(states)] = vectors
            if progress:
                progress(dict(zip(states, vectors, strict=True)))
        return result

    def close(self) -> None:
        """Let go of the executor."""
        self.states.close()

    def _finish(self, vectors: np.ndarray, options: EmbedOptions) -> np.ndarray:
        for layer in self.description.dense:
            vectors = layer(vectors)
        vectors, normalize = vectors[:, : options.get("dimensions")], options.get("normalize")
        return normalized(vectors) if (self.description.normalize if normalize is None else normalize) else vectors

    def _modes(self, options: EmbedOptions) -> tuple[str, ...]:
        pooling = options.get("pooling")
        if pooling is not None and pooling not in MODES:
            raise CutworkError(f"pooling must be {', '.join(MODES)}, not {pooling!r}")
        return (pooling,) if pooling else self.description.pooling

    def _check_width(self, options: EmbedOptions, modes: tuple[str, ...]) -> int:
        """Numbers of a vector. Raises CutworkError for more dimensions than there are, and layers that do not fit."""
        width = self.states.width * len(modes)
        for layer in self.description.dense:
            if width != layer.weight.shape[1]:
                raise CutworkError(f"a dense layer of the model takes {layer.weight.shape[1]} numbers, not {width}")
            width = layer.weight.shape[0]
        dimensions = options.get("dimensions")
        if dimensions is not None and not 1 <= dimensions <= width:
            raise CutworkError(f"dimensions must be from 1 to {width}, not {dimensions}")
        return dimensions or width

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        known = self.description.prompts
        if prompt is None:
            name = self.description.default_prompt if name is None else name
            if name is not None and name not in known:
                names = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise CutworkError(f"this model has no prompt {name!r}; {names}")
            prompt = "" if name is None else known[name]
        if prompt and not self.description.pools_prompt:
            raise CutworkError("this model leaves its prompt out of the pooling, which is not supported")
        return prompt


def _any_text(inputs: Sequence[Input]) -> bool:
    return any(isinstance(each, str) for each in inputs)
