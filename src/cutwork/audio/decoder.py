"""FFmpeg at work for `files`, a program of its own: a container on its input becomes samples on its output.

A few bytes of a container's tables can tell FFmpeg to make room for gigabytes before the first sample; nothing prevents
that but a limit of the whole process.

Writes messages: a letter, the length of what follows, uint32, and that. H: {"rate", "channels", "frames"} as JSON; S:
float32 samples, channels side by side; E: what is wrong; nothing after an empty S, the end.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

CODECS = ("aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "libopus", "mp3", "mp3float", "opus", "vorbis")
PLAIN = ("pcm_f32le", "pcm_s16be", "pcm_s16le", "pcm_s24le", "pcm_u8")
MEMORY = 256 << 20  # bytes of address space beyond what the process begins with; hours of sound take a tenth


def main() -> None:
    """Decode the first sound of the container of this kind."""
    import av

    _limit_memory()
    try:
        options = {"codec_whitelist": ",".join(CODECS + PLAIN)}
        sys.stdin.buffer.seek(0)
        with av.open(sys.stdin.buffer, format=sys.argv[1], options=options) as container:
            _decode(container, av.AudioResampler(format="flt"), av.error.InvalidDataError)
    except (av.FFmpegError, ValueError, MemoryError) as error:
        _write("E", (getattr(error, "strerror", None) or str(error) or "it needs too much memory").encode())


def _decode(container: Any, to_floats: Any, damaged: type[Exception]) -> None:
    if not container.streams.audio:
        raise ValueError("there is no sound in it")
    stream = container.streams.audio[0]
    rate, channels = int(stream.rate or 0), int(stream.channels)
    length = (stream.duration or 0) * (stream.time_base or 0)
    head = {"rate": rate, "channels": channels, "frames": max(0, int(length * rate))}
    _write("H", json.dumps(head).encode())
    for frame in _frames(container.demux(stream), damaged):
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise ValueError("its rate or channels change")
        for each in to_floats.resample(frame):
            _write("S", bytes(each.planes[0])[: 4 * channels * each.samples])
    _write("S", b"")


def _frames(packets: Iterator[Any], damaged: type[Exception]) -> Iterator[Any]:
    """What packets hold. One that is `damaged`, as the last of a recording that was cut, is left out, as by FFmpeg;
    before anything was heard the whole is refused."""
    heard = False
    for packet in packets:
        try:
            frames = packet.decode()
        except damaged:
            if not heard:
                raise
            continue
        heard = heard or bool(frames)
        yield from frames


def _write(letter: str, content: bytes) -> None:
    sys.stdout.buffer.write(letter.encode() + len(content).to_bytes(4, "little") + content)
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """As far as the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # or a killed one would leave the recording in a file


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # nobody wants the rest
        main()
