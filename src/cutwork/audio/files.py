"""The decoders of recordings: libsndfile, and FFmpeg by PyAV, where it is installed, for containers as MP4 and WebM.

FFmpeg is let at three formats and at codecs of sound only: it is told which, and never looks for others, pictures or
further files. It runs in a process of its own, with little memory.
"""

import importlib.util
import io
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from cutwork.errors import CutworkError
from cutwork.store.system import POSIX

_UNKNOWN = 1 << 62  # frames, and more: libsndfile's way to say that it does not know
_HEAD = 16  # bytes that tell what a file is


class AudioFile(Protocol):
    """An open recording. rate: hertz. frames: that it has by what it says, 0 if it says nothing. counted: whether it
    says so itself; else they are guessed from how many bytes its beginning takes."""

    rate: int
    channels: int
    frames: int
    counted: bool

    def read(self, frames: int) -> np.ndarray:
        """The next samples, float32 [n, channels]: about `frames` of them, none at the end."""


@contextmanager
def opened(source: Path | bytes, check: Callable[[], None]) -> Iterator[AudioFile]:
    """A recording, by its path or contents. OSError or RuntimeError if it is none; CutworkError if it needs PyAV.

    `check` is called again and again while another process is waited for; what it raises ends the waiting.
    """
    import soundfile

    with ExitStack() as open_files:
        file: BinaryIO = (
            io.BytesIO(source) if isinstance(source, bytes) else open_files.enter_context(source.open("rb"))
        )
        kind = _container(file.read(_HEAD))
        file.seek(0)
        if not kind:
            yield _Sound(open_files.enter_context(_forward(soundfile.SoundFile)(file)))
            return
        if isinstance(source, bytes):
            file = open_files.enter_context(tempfile.TemporaryFile())
            file.write(source)
            file.flush()
        yield _Container(file, kind, check, open_files)


def _forward(kind: Any) -> Any:
    """A class of files that are read once: what does not know its length (FLAC from a pipe) cannot be sought in."""
    return type("Forward", (kind,), {"seekable": lambda _: False})


class _Sound:
    """What libsndfile reads."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.rate, self.channels, frames = int(file.samplerate), int(file.channels), int(file.frames)
        self.frames = frames if frames < _UNKNOWN else 0
        self.counted = str(file.format) != "MP3"  # libsndfile does not say whether this one is

    def read(self, frames: int) -> np.ndarray:
        """See `AudioFile`."""
        return np.asarray(self._file.read(frames, dtype="float32", always_2d=True))


class _Container:
    """The first sound of a container, as FFmpeg reads it in a process of its own (`decoder`)."""

    def __init__(self, file: BinaryIO, kind: str, check: Callable[[], None], open_files: ExitStack) -> None:
        if importlib.util.find_spec("av") is None:
            raise CutworkError(
                f"a recording of this kind ({kind}) needs PyAV; install: pip install av, or convert it to WAV or FLAC"
            )
        command = [sys.executable, "-P", str(Path(__file__).with_name("decoder.py")), kind]
        self._process = subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        open_files.callback(self._end)
        self._check, self._over = check, False
        head = json.loads(self._message())
        self.rate, self.channels, self.frames = head["rate"], head["channels"], head["frames"]
        self.counted = kind != "aac"

    def read(self, frames: int) -> np.ndarray:
        """See `AudioFile`."""
        parts: list[bytes] = []
        left = 4 * self.channels * frames
        while left > 0 and not self._over:
            parts.append(self._message())
            left -= len(parts[-1])
            self._over = not parts[-1]
        return np.frombuffer(b"".join(parts), np.float32).reshape(-1, self.channels)

    def _message(self) -> bytes:
        head = self._bytes(5)
        content = self._bytes(int.from_bytes(head[1:], "little"))
        if head[:1] == b"E":
            raise OSError(content.decode(errors="replace"))
        return content

    def _bytes(self, count: int) -> bytes:
        assert self._process.stdout
        pipe, parts = self._process.stdout.fileno(), []
        while count:
            while not _something_comes(pipe):
                self._check()
            part = os.read(pipe, count)
            if not part:
                raise OSError("FFmpeg gave it up")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _end(self) -> None:
        assert self._process.stdout
        self._process.kill()
        self._process.stdout.close()
        self._process.wait()


def _something_comes(pipe: int) -> bool:
    """Whether a pipe has something to read, or has ended, after half a second at most."""
    if not POSIX:
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(500))


def _container(head: bytes) -> str | None:
    """FFmpeg's name of the container that begins like this, if it is one that libsndfile does not read."""
    if head[4:8] == b"ftyp":
        return "mov"  # MP4, M4A, 3GP too
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"  # WebM too
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS; MP3 differs in these bits
    return None
