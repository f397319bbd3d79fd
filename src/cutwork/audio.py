"""Recordings: whatever libsndfile reads, as mono float32 at the rate that speech models hear."""

import io
from pathlib import Path

import numpy as np

from cutwork.errors import CutworkError

RATE = 16_000  # hertz
SECONDS_PER_TIME = 0.02  # the step of a transcript's times, which Whisper writes as tokens


def read_audio(source: Path | bytes, *, longest: float | None = None) -> np.ndarray:
    """A recording as mono float32 at 16 kHz, from a file of any format that libsndfile knows (WAV, FLAC, OGG, MP3, …).

    `source` is its path or its contents; `longest` the seconds it may last. Raises CutworkError if it cannot be read,
    is empty or lasts longer.
    """
    try:
        import soundfile
        import soxr
    except ImportError:
        raise CutworkError("recordings need soundfile and soxr; install: pip install 'cutwork[speech]'") from None
    name = "the recording" if isinstance(source, bytes) else f"the recording {source}"
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate = file.samplerate
            if longest is not None and file.frames > longest * rate:  # before anything is decoded
                raise CutworkError(f"{name} lasts {file.frames / rate:.0f} s, longer than the {longest:g} s allowed")
            sound = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise CutworkError(f"cannot read {name}: {reason}; convert it to WAV or FLAC") from None
    if not len(sound):
        raise CutworkError(f"{name} is empty")
    mono = sound.mean(axis=1)
    resampled: np.ndarray = mono if rate == RATE else soxr.resample(mono, rate, RATE)
    return np.nan_to_num(resampled.astype(np.float32, copy=False))
