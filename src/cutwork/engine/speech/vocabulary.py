"""Whisper's special tokens: where text ends and times begin, languages, tasks, and what it must not write."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cutwork.architectures import kind_of
from cutwork.architectures.config import integer
from cutwork.audio.languages import language_code
from cutwork.engine.generation_config import generation_settings, read_generation_config
from cutwork.errors import CutworkError, damaged_if_not_understood

_ENGLISH_VOCABULARY = 51864  # tokens of the English-only models; all others have more


@dataclass(frozen=True)
class Vocabulary:
    """Token ids. `first_time` is that of <|0.00|>; all later ids are times, all ids below `end` text."""

    start: int
    end: int
    previous: int  # before the text of earlier windows
    no_speech: int
    without_times: int
    languages: Mapping[str, int]  # by code; empty for English-only models
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head) of the decoder
    unsaid: tuple[int, ...] = ()  # further ones that only ever stand in a prompt, in a model of one language too

    @property
    def first_time(self) -> int:
        """<|0.00|>."""
        return self.without_times + 1

    @property
    def special(self) -> list[int]:
        """The ids of what is neither text, time, language nor task."""
        return [self.start, self.end, self.previous, self.no_speech, self.without_times]

    @property
    def never(self) -> list[int]:
        """What no answer holds, where the model's own list of what it must not write is left out."""
        return [self.start, self.previous, self.no_speech, *self.tasks.values(), *self.unsaid]

    @property
    def multilingual(self) -> bool:
        """Whether it knows languages and tasks."""
        return bool(self.languages)

    def text(self, tokens: Sequence[int]) -> list[int]:
        """Tokens without times and other special ones."""
        return [token for token in tokens if token < self.end]

    def language(self, name: str | None) -> str:
        """The code of a language given as code or English name; CutworkError if the model does not know it."""
        code = language_code(name or "en")
        known = self.languages or {"en": 0}
        if code not in known:
            only = "English only" if not self.languages else f"{', '.join(sorted(known))}"
            raise CutworkError(f"this model does not know the language '{name}'; it knows {only}")
        return code

    def prompt(self, language: str, task: Literal["transcribe", "translate"], *, times: bool) -> list[int]:
        """What every window's answer begins with; CutworkError for a translation by an English-only model."""
        ids = [self.start]
        if self.multilingual:
            ids += [self.languages[language], self.tasks[task]]
        elif task == "translate":
            raise CutworkError("an English-only model cannot translate; use a multilingual one")
        return ids if times else [*ids, self.without_times]


def vocabulary_of(path: Path, config: Mapping[str, Any], tokenizer: Any) -> Vocabulary:
    """The special tokens of a model directory, from generation_config.json or else by their names.

    Raises CutworkError if the model is no Whisper, its files do not say, or an id is not in its vocabulary.
    """
    if kind_of(config) != "speech":
        raise CutworkError(f"{path} is a {config.get('model_type')} model; only Whisper models transcribe")
    size = integer(config, "vocab_size", maximum=1 << 24)
    with damaged_if_not_understood(path):
        vocabulary = _read(path, config, tokenizer)
        named = [*vocabulary.languages.values(), *vocabulary.tasks.values()]
        named += [*vocabulary.unsaid, *vocabulary.suppressed, *vocabulary.suppressed_first, *vocabulary.special]
        for token in named:
            if not isinstance(token, int) or not 0 <= token < size:
                raise CutworkError(f"{path}: token {token!r} is not in the vocabulary of {size} tokens")
        if vocabulary.first_time >= size:
            raise CutworkError(f"{path}: the vocabulary of {size} tokens has none for times")
    return vocabulary


def _read(path: Path, config: Mapping[str, Any], tokenizer: Any) -> Vocabulary:
    settings, written = read_generation_config(path), generation_settings(path, config)

    def find(key: str, *names: str) -> int:
        found = settings.get(key, config.get(key))
        if isinstance(found, int) and not isinstance(found, bool):
            return found
        named = [tokenizer.convert_tokens_to_ids(name) for name in names]
        unknown = getattr(tokenizer, "unk_token_id", None)
        if not named or named[0] is None or (named[0] == unknown and names[0] != tokenizer.unk_token):
            raise CutworkError(f"{path}: generation_config.json lacks '{key}', and the tokenizer has no {names[0]}")
        return int(named[0])

    without_times = find("no_timestamps_token_id", "<|notimestamps|>")
    languages, tasks = settings.get("lang_to_id") or {}, settings.get("task_to_id") or {}
    if not languages and integer(config, "vocab_size", maximum=1 << 24) > _ENGLISH_VOCABULARY:
        languages, tasks = _by_names(tokenizer)
    heads = settings.get("alignment_heads") or ()
    return Vocabulary(
        start=find("decoder_start_token_id", "<|startoftranscript|>"),
        end=find("eos_token_id", "<|endoftext|>"),
        previous=find("prev_sot_token_id", "<|startofprev|>"),
        no_speech=without_times - 1,
        without_times=without_times,
        languages={name.strip("<|>"): int(token) for name, token in languages.items()},
        tasks=tasks,
        suppressed=tuple(written.get("suppress_tokens") or ()),
        suppressed_first=tuple(written.get("begin_suppress_tokens") or ()),
        alignment_heads=tuple((int(layer), int(head)) for layer, head in heads),
        unsaid=tuple(_named(tokenizer, ("transcribe", "translate", "startoflm")).values()),
    )


def _by_names(tokenizer: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Languages and tasks of a multilingual model whose generation_config.json is older than both, or missing."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return _named(tokenizer, sorted(set(TO_LANGUAGE_CODE.values()))), _named(tokenizer, ("transcribe", "translate"))


def _named(tokenizer: Any, names: Iterable[str]) -> dict[str, int]:
    """Those of Whisper's special tokens that a tokenizer knows."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    found = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    return {name: token for name, token in found.items() if token is not None and token != unknown}
