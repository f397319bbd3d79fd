"""Leaving silence out before transcription: by energy above the recording's own noise floor, no model needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from cutwork.audio import RATE
from cutwork.engine.speech.segments import Segment
from cutwork.errors import CutworkError

_FRAME = RATE // 50  # samples whose energy is taken together: 20 ms


@dataclass(frozen=True)
class Silence:
    """What counts as silence. threshold: decibels above the noise floor, the quietest twentieth of the recording.

    min_silence_duration_ms: shorter pauses stay. min_speech_duration_ms: shorter sounds are no speech.
    speech_pad_ms: kept on either side of speech.
    """

    threshold: float = 9.0
    min_silence_duration_ms: int = 2000
    min_speech_duration_ms: int = 100
    speech_pad_ms: int = 400

    @classmethod
    def of(cls, keywords: Mapping[str, Any] | None) -> "Silence":
        """From `vad_parameters`; CutworkError for an unknown one or a negative number."""
        known = [field.name for field in fields(cls)]
        for key, value in (keywords or {}).items():
            if key not in known:
                raise CutworkError(f"vad_parameters has no '{key}'; it has {', '.join(known)}")
            if not isinstance(value, int | float) or value < 0:
                raise CutworkError(f"vad_parameters: {key} must be a number of at least 0, not {value!r}")
        return cls(**(keywords or {}))


@dataclass(frozen=True)
class Spoken:
    """A recording without its silence: `sound`, and where each stretch (begin, end, in samples) was."""

    sound: np.ndarray
    stretches: Sequence[tuple[int, int]]

    def restore(self, time: float) -> float:
        """The time in the whole recording of a time in `sound`."""
        place, passed = time * RATE, 0
        for begin, end in self.stretches:
            if place <= passed + end - begin:
                return round((begin + place - passed) / RATE, 2)
            passed += end - begin
        return round(self.stretches[-1][1] / RATE, 2)

    def restore_segment(self, segment: Segment) -> Segment:
        """A segment at its time in the whole recording."""
        words = segment.words and [
            replace(word, start=self.restore(word.start), end=self.restore(word.end)) for word in segment.words
        ]
        return replace(segment, start=self.restore(segment.start), end=self.restore(segment.end), words=words)


def spoken(sound: np.ndarray, silence: Silence) -> Spoken:
    """What of a recording (mono float32, 16 kHz) is louder than its noise."""
    frames = len(sound) // _FRAME
    if not frames:
        return Spoken(sound, [(0, len(sound))])
    energy = (sound[: frames * _FRAME].reshape(frames, _FRAME).astype(np.float64) ** 2).mean(axis=1)
    level = 10 * np.log10(energy + 1e-10)
    loud = level > np.quantile(level, 0.05) + silence.threshold
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.view(np.int8), [0]])))
    runs = [(int(begin) * _FRAME, int(end) * _FRAME) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    stretches: list[tuple[int, int]] = []
    for begin, end in runs:
        if stretches and begin - stretches[-1][1] < silence.min_silence_duration_ms * RATE // 1000:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((begin, end))
    pad, shortest = silence.speech_pad_ms * RATE // 1000, silence.min_speech_duration_ms * RATE // 1000
    padded: list[tuple[int, int]] = []
    for begin, end in stretches:
        if end - begin >= shortest:
            start = max(begin - pad, padded[-1][1] if padded else 0)
            padded.append((start, min(end + pad, len(sound))))
    if not padded:
        return Spoken(sound[:0], [(0, 0)])
    return Spoken(np.concatenate([sound[begin:end] for begin, end in padded]), padded)
