"""What transcription gives: words, segments and the whole transcript; and how a window's tokens become segments."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cutwork.audio import SECONDS_PER_TIME
from cutwork.engine.speech.vocabulary import Vocabulary


@dataclass(frozen=True)
class Word:
    """A word with the punctuation around it; times in seconds."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech; times in seconds, `seek` the frame (10 ms) at which its window begins.

    temperature, avg_logprob, compression_ratio and no_speech_prob are those of the whole window.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    words: list[Word] | None = None


@dataclass(frozen=True)
class Transcript:
    """A recording's text. language_probability: None where the language was given. duration: of the recording, in
    seconds; duration_after_vad: of what was listened to."""

    text: str
    segments: list[Segment]
    language: str
    language_probability: float | None
    duration: float
    duration_after_vad: float
    all_language_probs: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Slice:
    """A window's tokens between two times, in seconds from its beginning."""

    start: float
    end: float
    tokens: list[int]


def split(tokens: Sequence[int], vocabulary: Vocabulary, frames: int) -> tuple[list[Slice], int]:
    """The segments of a window of so many frames, and how many frames on the next window begins.

    Where the last segment is not ended the next window begins at it: it may have been cut off in mid-word.
    """
    first = vocabulary.first_time
    is_time = [token >= first for token in tokens]
    ends = [i + 1 for i in range(len(tokens) - 1) if is_time[i] and is_time[i + 1]]
    if not ends:
        last = next((token - first for token in reversed(tokens) if token >= first), 0)
        return [Slice(0.0, (last or frames // 2) * SECONDS_PER_TIME, list(tokens))], frames
    finished = is_time[-2:] == [False, True]  # nothing is said after the last time
    if finished:
        ends.append(len(tokens))
    slices, start = [], 0
    for end in ends:
        part = list(tokens[start:end])
        slices.append(Slice((part[0] - first) * SECONDS_PER_TIME, (part[-1] - first) * SECONDS_PER_TIME, part))
        start = end
    if finished:
        return slices, frames
    return slices, (tokens[start - 1] - first) * 2 or frames
