"""When each word is said: the decoder's attention warped onto the window (arXiv 2212.04356)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutwork.audio import SECONDS_PER_TIME
from cutwork.engine.speech.decoder import Decoder
from cutwork.engine.speech.segments import Segment, Word
from cutwork.engine.speech.vocabulary import Vocabulary
from cutwork.errors import CutworkError

_SPACELESS = {"zh", "ja", "th", "lo", "my", "yue"}
_BEFORE, _AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to the word after it, before it
_CHARACTER = 4  # tokens at most that make one, each at least a byte of UTF-8
_FILTER = 7  # encoded frames of the median filter
_LONGEST = 1.4  # seconds: twice the usual longest word; what is longer reaches into a pause


@dataclass(frozen=True)
class Aligner:
    """Finds words' times with the heads of the decoder's cross attention that follow the speech."""

    decoder: Decoder
    tokenizer: Any
    vocabulary: Vocabulary
    language: str

    def __post_init__(self) -> None:
        if not self.vocabulary.alignment_heads:
            raise CutworkError("word_timestamps needs alignment_heads in the model's generation_config.json; add them")

    def add_words(
        self, memory: Any, segments: Sequence[Segment], prompt: Sequence[int], offset: float, frames: int
    ) -> list[Segment]:
        """The segments of a window that begins at `offset` seconds and has so many frames, with their words."""
        texts = [self.vocabulary.text(segment.tokens) for segment in segments]
        tokens = [token for text in texts for token in text]
        if not tokens:
            return list(segments)
        start = [token for token in prompt if token != self.vocabulary.without_times]
        read = [*start, self.vocabulary.without_times, *tokens]
        weights, logits = self.decoder.attention(memory, read, self.vocabulary.alignment_heads)
        times = token_times(weights[:, len(start) :, : max(1, frames // 2)])
        logits = logits[len(start) : -1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        chances = np.exp(shifted[np.arange(len(tokens)), tokens]) / np.exp(shifted).sum(axis=1)
        result, place = [], 0
        for segment, text in zip(segments, texts, strict=True):
            words = []
            for part, string in merge_punctuation(self._words(text)):
                end = place + len(part)
                begin_time, end_time = offset + float(times[place]), offset + float(times[end])
                words.append(Word(begin_time, end_time, string, float(chances[place:end].mean())))
                place = end
            result.append(replace(segment, words=[_within(word, segment) for word in words]))
        return result

    def _words(self, tokens: Sequence[int]) -> list[tuple[list[int], str]]:
        """Tokens word by word, each word with its leading space."""
        words: list[tuple[list[int], str]] = []
        for part, text in self._characters(tokens):
            begins = self.language in _SPACELESS or text.startswith(" ") or text.strip() in _AFTER + _BEFORE
            if words and not begins and text.strip():
                words[-1] = (words[-1][0] + part, words[-1][1] + text)
            else:
                words.append((part, text))
        return words

    def _characters(self, tokens: Sequence[int]) -> list[tuple[list[int], str]]:
        """Runs of tokens that are whole characters."""
        words: list[tuple[list[int], str]] = []
        part: list[int] = []
        for token in tokens:
            part = [*part, token]
            text = self._text(part)
            if "\N{REPLACEMENT CHARACTER}" not in text or len(part) == _CHARACTER:
                words.append((part, text))
                part = []
        return [*words, (part, self._text(part))] if part else words

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def merge_punctuation(words: list[tuple[list[int], str]]) -> list[tuple[list[int], str]]:
    """Words with the punctuation around them."""
    merged: list[tuple[list[int], str]] = []
    opening: tuple[list[int], str] = ([], "")
    for part, text in words:
        bare = text.strip()
        if text.startswith(" ") and bare and bare in _BEFORE:
            opening = (opening[0] + part, opening[1] + text)
        elif merged and not opening[0] and (not bare or (not text.startswith(" ") and bare in _AFTER)):
            merged[-1] = (merged[-1][0] + part, merged[-1][1] + text)
        else:
            joined = opening[1] + (text.lstrip() if opening[1] else text)
            merged.append((opening[0] + part, joined))
            opening = ([], "")
    return [*merged, opening] if opening[0] else merged


def token_times(weights: np.ndarray) -> np.ndarray:
    """Seconds at which each of T-1 tokens begins and the last ends [T], from attention [heads, T, frames / 2].

    Row i is what the model looks at as it writes token i.
    """
    deviation = weights.std(axis=1, keepdims=True)
    scores = (weights - weights.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-9)
    rows, columns = warp(-median_filter(scores, _FILTER).mean(axis=0))
    first = np.concatenate([[True], np.diff(rows) > 0])
    return np.asarray(columns[first] * SECONDS_PER_TIME)


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """The median of `width` (odd) neighbours along the last axis; reflected at its ends."""
    if values.shape[-1] <= width // 2:
        return values
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(width // 2, width // 2)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=-1)
    return np.asarray(np.partition(windows, width // 2, axis=-1)[..., width // 2])


def warp(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest monotonous path through a matrix [N, M] from its first to its last entry: rows and columns.

    Computed diagonal by diagonal; of equally cheap ways the diagonal step is the last choice, as in Whisper's code.
    """
    height, width = cost.shape
    total = np.full((height + 1, width + 1), np.inf)
    total[0, 0] = 0
    step = np.zeros((height + 1, width + 1), np.int8)
    for diagonal in range(2, height + width + 1):
        i = np.arange(max(1, diagonal - width), min(height, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        way = np.where((both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2))
        total[i, j] = cost[i - 1, j - 1] + np.choose(way, [both, down, right])
        step[i, j] = way
    step[0, :], step[:, 0] = 2, 1
    i, j = height, width
    path = []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        way = step[i, j]
        i, j = i - (way != 2), j - (way != 1)
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def _within(word: Word, segment: Segment) -> Word:
    """A word no longer than words are, inside its segment: at a sentence's end it reaches into the pause."""
    start = min(max(word.start, segment.start), segment.end)
    end = min(max(word.end, start), segment.end)
    if end - start > _LONGEST:
        start, end = (end - _LONGEST, end) if word.word.strip()[-1:] not in _AFTER else (start, start + _LONGEST)
    return replace(word, start=round(start, 2), end=round(end, 2))
