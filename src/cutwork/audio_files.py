"""The decoders of recordings: libsndfile, and FFmpeg by PyAV, where it is installed, for containers as MP4 and WebM.

FFmpeg is let at three formats and at codecs of sound only: it is told which, and never looks for others, pictures or
further files.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from cutwork.errors import CutworkError

_CODECS = ("aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "libopus", "mp3", "mp3float", "opus", "vorbis")
_PLAIN = ("pcm_f32le", "pcm_s16be", "pcm_s16le", "pcm_s24le", "pcm_u8")
_HEAD = 16  # bytes that tell what a file is


class AudioFile(Protocol):
    """An open recording. rate: hertz. frames: that it says it has, 0 if it does not."""

    rate: int
    channels: int
    frames: int

    def read(self, frames: int) -> np.ndarray:
        """The next samples, float32 [n, channels]: about `frames` of them, none at the end."""


@contextmanager
def opened(source: Path | bytes) -> Iterator[AudioFile]:
    """A recording, by its path or contents. OSError or RuntimeError if it is none; CutworkError if it needs PyAV."""
    import soundfile

    with ExitStack() as open_files:
        file: BinaryIO = (
            io.BytesIO(source) if isinstance(source, bytes) else open_files.enter_context(source.open("rb"))
        )
        kind = _container(file.read(_HEAD))
        file.seek(0)
        yield (
            _Container(file, kind, open_files) if kind else _Sound(open_files.enter_context(soundfile.SoundFile(file)))
        )


class _Sound:
    """What libsndfile reads."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.rate, self.channels, self.frames = int(file.samplerate), int(file.channels), int(file.frames)

    def read(self, frames: int) -> np.ndarray:
        """See `AudioFile`."""
        return np.asarray(self._file.read(frames, dtype="float32", always_2d=True))


class _Container:
    """The first sound of a container, as FFmpeg reads it."""

    def __init__(self, file: BinaryIO, kind: str, open_files: ExitStack) -> None:
        try:
            import av
        except ImportError:
            raise CutworkError(
                f"a recording of this kind ({kind}) needs PyAV; install: pip install av, or convert it to WAV or FLAC"
            ) from None
        self._errors = (av.FFmpegError, ValueError)
        with self._understood():
            container = av.open(file, format=kind, options={"codec_whitelist": ",".join(_CODECS + _PLAIN)})
            open_files.enter_context(container)
            if not container.streams.audio:
                raise ValueError("there is no sound in it")
            stream = container.streams.audio[0]
            self.rate, self.channels = int(stream.rate or 0), int(stream.channels)
            length = (stream.duration or 0) * (stream.time_base or 0)
            self.frames = max(0, int(length * self.rate))
            self._to_floats = av.AudioResampler(format="flt")
            self._decoded = self._floats(container.decode(stream))

    def read(self, frames: int) -> np.ndarray:
        """See `AudioFile`."""
        parts: list[np.ndarray] = []
        with self._understood():
            while sum(map(len, parts)) < frames and (part := next(self._decoded, None)) is not None:
                parts.append(part)
        return np.concatenate(parts) if parts else np.empty((0, self.channels), np.float32)

    def _floats(self, decoded: Iterator[Any]) -> Iterator[np.ndarray]:
        for frame in decoded:
            if frame.sample_rate != self.rate or frame.layout.nb_channels != self.channels:
                raise ValueError("its rate or channels change")
            for each in self._to_floats.resample(frame):
                yield each.to_ndarray().reshape(-1, self.channels)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise OSError(getattr(error, "strerror", None) or str(error)) from None


def _container(head: bytes) -> str | None:
    """FFmpeg's name of the container that begins like this, if it is one that libsndfile does not read."""
    if head[4:8] == b"ftyp":
        return "mov"  # MP4, M4A, 3GP too
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"  # WebM too
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS; MP3 differs in these bits
    return None
