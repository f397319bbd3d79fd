"""Recordings of any format, as mono float32 at the rate that speech models hear."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cutwork.audio.files import opened
from cutwork.errors import CutworkError, reason
from cutwork.extras import install

RATE = 16_000  # hertz
HEARD_SECONDS = 30  # that Whisper hears at a time
SECONDS_PER_TIME = 0.02  # the step of a transcript's times, which Whisper writes as tokens
MIN_RATE, MAX_RATE, MAX_CHANNELS = 1000, 384_000, 8  # below, a few bytes would be an hour to listen to
DENSEST = 192_000  # samples of all channels that a second may have where the length is limited: 96 kHz stereo
MOST_BELIEVED = 4 * 3600  # seconds for which room is made because a file says that it lasts so long
MOST_EMPTY = 1 << 12  # bytes of a file without sound
BLOCK = 1 << 20  # samples of all channels decoded at a time


def read_audio(
    source: Path | bytes, *, longest: float | None = None, check: Callable[[], None] | None = None
) -> np.ndarray:
    """A recording as mono float32 at 16 kHz, from a file: WAV, FLAC, OGG, MP3 and what else libsndfile knows; M4A, MP4,
    WebM, Matroska and AAC where PyAV is installed.

    It is decoded in blocks, so that it takes no more memory than what comes of it, whatever the file says of itself.
    `source` is its path or its contents; `longest` the seconds it may last; `check` is called before every block and
    while one is waited for, and what it raises ends the reading. Raises CutworkError if it cannot be read, is empty,
    lasts longer, or has a rate or channels that no recording has.
    """
    try:
        import soundfile  # noqa: F401
        import soxr
    except ImportError:
        raise CutworkError(f"recordings need soundfile and soxr; install them with: {install('speech')}") from None
    name = "the recording" if isinstance(source, bytes) else f"the recording {source}"
    try:
        with opened(source, check or (lambda: None)) as file:
            rate, channels = file.rate, file.channels
            if not MIN_RATE <= rate <= MAX_RATE or channels > MAX_CHANNELS:
                raise CutworkError(
                    f"{name} has {channels} channels at {rate} Hz; "
                    f"up to {MAX_CHANNELS} from {MIN_RATE} to {MAX_RATE} Hz are read"
                )
            if file.counted:
                _check_length(name, file.frames, rate, channels, longest)  # before anything is decoded
            to_rate = soxr.ResampleStream(rate, RATE, 1) if rate != RATE else None
            sound = np.empty(math.ceil(min(file.frames, MOST_BELIEVED * rate) / rate * RATE) + RATE, np.float32)
            filled = frames = 0
            while True:
                if check:
                    check()
                block = file.read(BLOCK // channels)
                frames += len(block)
                _check_length(name, frames, rate, channels, longest)
                mono = block.mean(axis=1)
                part = to_rate.resample_chunk(mono, last=not len(block)) if to_rate else mono
                if filled + len(part) > len(sound):  # the file said less of itself than there is
                    sound = np.concatenate([sound[:filled], np.empty(max(len(part), filled // 2), np.float32)])
                sound[filled : filled + len(part)] = part
                filled += len(part)
                if not len(block):
                    break
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the path, not of what is in the file
            raise CutworkError(f"cannot read {name}: {reason(error)}") from None
        # soundfile's own text begins with the object that it reads, and where that is in memory.
        said = " ".join(str(getattr(error, "error_string", error)).split()).removesuffix(".")
        raise CutworkError(f"cannot read {name}: {said}; convert it to WAV or FLAC") from None
    except MemoryError:
        raise CutworkError(f"{name} needs more memory than there is; cut it into shorter ones") from None
    if not filled:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if file.frames or size > MOST_EMPTY:
            raise CutworkError(f"{name} is damaged: nothing that is in it can be heard")
        raise CutworkError(f"{name} is empty")
    return np.nan_to_num(sound[:filled], copy=False)


def _check_length(name: str, frames: int, rate: int, channels: int, longest: float | None) -> None:
    if longest is None:
        return
    if frames > longest * rate:
        raise CutworkError(f"{name} lasts {frames / rate:.0f} s, longer than the {longest:g} s allowed")
    if frames * channels > longest * DENSEST:
        raise CutworkError(f"{name} has {frames * channels} samples, more than the {longest * DENSEST:.0f} allowed")
