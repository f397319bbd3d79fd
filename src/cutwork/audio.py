"""Recordings: whatever libsndfile reads, as mono float32 at the rate that speech models hear."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cutwork.errors import CutworkError

RATE = 16_000  # hertz
SECONDS_PER_TIME = 0.02  # the step of a transcript's times, which Whisper writes as tokens
MAX_RATE, MAX_CHANNELS = 384_000, 8
DENSEST = 192_000  # samples of all channels that a second may have where the length is limited: 96 kHz stereo
BLOCK = 1 << 20  # samples of all channels decoded at a time


def read_audio(
    source: Path | bytes, *, longest: float | None = None, check: Callable[[], None] | None = None
) -> np.ndarray:
    """A recording as mono float32 at 16 kHz, from a file of any format that libsndfile knows (WAV, FLAC, OGG, MP3, …).

    It is decoded in blocks, so that it takes no more memory than what comes of it, whatever the file says of itself.
    `source` is its path or its contents; `longest` the seconds it may last; `check` is called before every block, and
    what it raises ends the reading. Raises CutworkError if it cannot be read, is empty, lasts longer, or has a rate or
    channels that no recording has.
    """
    try:
        import soundfile
        import soxr
    except ImportError:
        raise CutworkError("recordings need soundfile and soxr; install: pip install 'cutwork[speech]'") from None
    name = "the recording" if isinstance(source, bytes) else f"the recording {source}"
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            rate, channels = file.samplerate, file.channels
            if not 0 < rate <= MAX_RATE or channels > MAX_CHANNELS:
                raise CutworkError(
                    f"{name} has {channels} channels at {rate} Hz; at most {MAX_CHANNELS} and {MAX_RATE} Hz are read"
                )
            _check_length(name, file.frames, rate, channels, longest)  # before anything is decoded
            to_rate = soxr.ResampleStream(rate, RATE, 1) if rate != RATE else None
            parts, frames = [], 0
            while True:
                if check:
                    check()
                block = file.read(BLOCK // channels, dtype="float32", always_2d=True)
                frames += len(block)
                _check_length(name, frames, rate, channels, longest)
                mono = block.mean(axis=1)
                parts.append(to_rate.resample_chunk(mono, last=not len(block)) if to_rate else mono)
                if not len(block):
                    break
            sound = np.concatenate(parts)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise CutworkError(f"cannot read {name}: {reason}; convert it to WAV or FLAC") from None
    except MemoryError:
        raise CutworkError(f"{name} needs more memory than there is; cut it into shorter ones") from None
    if not frames or not len(sound):
        raise CutworkError(f"{name} is empty")
    return np.nan_to_num(sound.astype(np.float32, copy=False), copy=False)


def _check_length(name: str, frames: int, rate: int, channels: int, longest: float | None) -> None:
    if longest is None:
        return
    if frames > longest * rate:
        raise CutworkError(f"{name} lasts {frames / rate:.0f} s, longer than the {longest:g} s allowed")
    if frames * channels > longest * DENSEST:
        raise CutworkError(f"{name} has {frames * channels} samples, more than the {longest * DENSEST:.0f} allowed")
