"""Texts into vectors."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np

from cutwork.engine.check_options import check_options
from cutwork.engine.embedding.description import Description
from cutwork.engine.embedding.hidden_states import HiddenStates
from cutwork.engine.embedding.pooling import MODES, normalized, pool
from cutwork.engine.embedding.texts import TextReader, Tokens
from cutwork.errors import CutworkError

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
        self.states, self._tokenizer, self._check_tokens = states, tokenizer, check
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
        return self._width({})

    def read(self, inputs: Sequence[Input], **options: Unpack[EmbedOptions]) -> list[Tokens]:
        """What the model reads of each: a text is cut at `max_length`, token ids are taken as they are.

        Raises CutworkError for what is empty, too many ids, and a prompt that is not known or not for this model.
        """
        before = self.prompt(options)
        asked = options.get("prompt") is not None or options.get("prompt_name") is not None
        if asked and not all(isinstance(each, str) for each in inputs):
            raise CutworkError("a prompt goes before text; put its tokens before the others, or give text")
        given = [before + each for each in inputs if isinstance(each, str)]
        texts = iter(self.reader.read(given) if given else ())
        found = [next(texts) if isinstance(each, str) else Tokens.of_ids(each) for each in inputs]
        for number, tokens in enumerate(found):
            if not len(tokens):
                raise CutworkError(f"input {number + 1} is empty; give at least one token")
            if len(tokens) > self.max_length:
                raise CutworkError(
                    f"input {number + 1} has {len(tokens)} tokens, but this model reads at most {self.max_length}"
                )
            self._check_tokens(tokens.ids.tolist())
        self.states.check(found)
        return found

    def prompt(self, options: EmbedOptions) -> str:
        """What comes before each text. CutworkError for one that is not known or not for this model."""
        known, name, prompt = self.description.prompts, options.get("prompt_name"), options.get("prompt")
        if prompt is None:
            name = self.description.default_prompt if name is None else name
            if name is not None and name not in known:
                names = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise CutworkError(f"this model has no prompt {name!r}; {names}")
            prompt = "" if name is None else known[name]
        if prompt and not self.description.pools_prompt:
            raise CutworkError("this model leaves its prompt out of the pooling, which is not supported")
        return prompt

    def check(self, options: EmbedOptions) -> None:
        """Raise CutworkError for options that are unknown, out of range or not for this model."""
        check_options(options, EmbedOptions)
        self.prompt(options)
        self._width(options)

    def vectors(
        self, inputs: Sequence[Tokens], progress: EmbedProgress | None = None, **options: Unpack[EmbedOptions]
    ) -> np.ndarray:
        """Float32 [n, width] of what was read; `progress` is called with the new ones by their place."""
        self.check(options)
        result = np.empty((len(inputs), self._width(options)), np.float32)
        for states in self.states.of(inputs, last=self.last_only(options)):
            vectors = self.finish(np.stack([self.pool(hidden, options) for hidden in states.values()]), options)
            result[list(states)] = vectors
            if progress:
                progress(dict(zip(states, vectors, strict=True)))
        return result

    def last_only(self, options: EmbedOptions) -> bool:
        """Whether a vector is made of the last token's hidden states only."""
        return self._modes(options) == ("lasttoken",)

    def pool(self, states: np.ndarray, options: EmbedOptions) -> np.ndarray:
        """The hidden states [T, width] of a text in one row."""
        return pool(states, self._modes(options))

    def finish(self, pooled: np.ndarray, options: EmbedOptions) -> np.ndarray:
        """Vectors float32 [n, width] of such rows."""
        for layer in self.description.dense:
            pooled = layer(pooled)
        vectors, normalize = pooled[:, : options.get("dimensions")], options.get("normalize")
        return normalized(vectors) if (self.description.normalize if normalize is None else normalize) else vectors

    def _modes(self, options: EmbedOptions) -> tuple[str, ...]:
        pooling = options.get("pooling")
        if pooling is not None and pooling not in MODES:
            raise CutworkError(f"pooling must be {', '.join(MODES)}, not {pooling!r}")
        return (pooling,) if pooling else self.description.pooling

    def _width(self, options: EmbedOptions) -> int:
        width = self.states.width * len(self._modes(options))
        for layer in self.description.dense:
            if width != layer.weight.shape[1]:
                raise CutworkError(f"a dense layer of the model takes {layer.weight.shape[1]} numbers, not {width}")
            width = layer.weight.shape[0]
        dimensions = options.get("dimensions")
        if dimensions is not None and not 1 <= dimensions <= width:
            raise CutworkError(f"dimensions must be from 1 to {width}, not {dimensions}")
        return dimensions or width
