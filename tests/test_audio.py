"""Reading recordings: in blocks, as if it were done at once, and no more than is allowed."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import soundfile
import soxr

from cutwork import audio
from cutwork.audio import RATE, read_audio
from cutwork.errors import CutworkError


def recording(seconds, rate, channels, kind="FLAC"):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (16_000, 2), (44_100, 2), (8_000, 1), (48_000, 6)])
def test_blocks_give_what_the_whole_gives(monkeypatch, rate, channels):
    data = recording(1.3, rate, channels)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    mono = whole.mean(axis=1)
    wanted = mono if rate == RATE else soxr.resample(mono, rate, RATE)
    for block in (1 << 12, 1 << 20):
        monkeypatch.setattr(audio, "BLOCK", block)
        assert np.array_equal(read_audio(data), wanted)


def test_it_asks_before_every_block_whether_to_go_on(monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 1000)
    asked = []

    class Enough(Exception):
        """Raised by whoever is asked."""

    def check():
        asked.append(len(asked))
        if len(asked) == 3:
            raise Enough

    with pytest.raises(Enough):
        read_audio(recording(1, RATE, 1), check=check)
    assert len(asked) == 3


def test_lengths_are_counted_and_not_believed(monkeypatch):
    monkeypatch.setattr(audio, "DENSEST", 20_000)
    with pytest.raises(CutworkError, match="samples, more than"):
        read_audio(recording(2, RATE, 2), longest=2)
    with pytest.raises(CutworkError, match="longer than"):
        read_audio(recording(2, RATE, 1), longest=1)
    assert len(read_audio(recording(2, RATE, 1), longest=2)) == 2 * RATE


@pytest.mark.parametrize("longest", [None, 3600])
def test_a_flac_that_does_not_know_its_length(longest):
    """As one has it that was written to a pipe."""
    data = recording(3, 44_100, 2)
    unknown = bytearray(data)
    assert unknown[4] & 0x7F == 0  # the block that counts the samples, in the last 36 of 64 bits
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    assert np.array_equal(read_audio(bytes(unknown), longest=longest), read_audio(data))
    with pytest.raises(CutworkError, match="longer than the 2 s"):
        read_audio(bytes(unknown), longest=2)


def test_a_guessed_length_refuses_nothing():
    """MP3s of changing bit rates without a header that counts them: libsndfile goes by the first ones."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 22 * 44_100).astype(np.float32)
    sound[: 2 * 44_100] = 0
    file = io.BytesIO()
    soundfile.write(file, sound, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data = file.getvalue()
    headless = data[data.index(data[:2], 2) :]  # behind the first frame, which holds the count
    guessed = soundfile.SoundFile(io.BytesIO(headless)).frames / 44_100
    assert guessed > 40
    assert 20 < len(read_audio(headless, longest=30)) / RATE < 24
    with pytest.raises(CutworkError, match="longer than the 10 s"):
        read_audio(headless, longest=10)


@pytest.mark.parametrize(("rate", "channels"), [(400_000, 1), (8_000, 9), (999, 1)])
def test_rates_and_channels_that_no_recording_has(rate, channels):
    with pytest.raises(CutworkError, match="channels at"):
        read_audio(recording(0.01, rate, channels, "WAV"))


def test_a_file_that_says_less_of_itself_than_it_holds(monkeypatch):
    data = recording(3, RATE, 1)
    wanted = read_audio(data)
    monkeypatch.setattr(audio, "MOST_BELIEVED", 0)
    monkeypatch.setattr(audio, "BLOCK", 5000)
    assert np.array_equal(read_audio(data), wanted)


def test_too_little_memory_is_told(monkeypatch):
    def short(*_, **__):
        raise MemoryError

    data = recording(0.1, RATE, 1)
    monkeypatch.setattr(np, "empty", short)
    with pytest.raises(CutworkError, match="more memory"):
        read_audio(data)


def container(kind, codec, layout="stereo", rate=48_000, picture=False):
    """Two seconds of a tone of 440 Hz, as FFmpeg writes it."""
    av = pytest.importorskip("av")
    file, count = io.BytesIO(), len(av.AudioLayout(layout).channels)
    with av.open(file, "w", format=kind) as out:
        if picture:
            video = out.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if picture:
            for _ in range(20):
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            out.mux(video.encode(None))
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
        for begin in range(0, len(tone), 960):
            frame = av.AudioFrame.from_ndarray(np.tile(tone[begin : begin + 960], (count, 1)), "fltp", layout)
            frame.sample_rate, frame.pts = rate, begin
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


CONTAINERS = {
    "m4a": ("mp4", "aac"),
    "video": ("mp4", "aac", "stereo", 44_100, True),
    "webm": ("webm", "libopus", "mono"),
    "mkv": ("matroska", "aac", "5.1"),
    "aac": ("adts", "aac", "mono", 16_000),
    "mov": ("mov", "alac"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_sound_as_they_did(name, tmp_path):
    data = container(*CONTAINERS[name])
    sound = read_audio(data)
    assert sound.dtype == np.float32 and abs(len(sound) - 2 * RATE) < 0.15 * RATE
    middle = sound[RATE // 2 : RATE // 2 + RATE]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(RATE)))
    assert spectrum.argmax() == 440 and 0.3 < np.abs(middle).max() < 0.7
    (tmp_path / f"tone.{name}").write_bytes(data)
    assert np.array_equal(read_audio(tmp_path / f"tone.{name}"), sound)
    with pytest.raises(CutworkError, match="longer than"):
        read_audio(data, longest=1)


def test_damaged_containers_are_one_sentence():
    for made in CONTAINERS.values():
        data, random = container(*made), np.random.default_rng(0)
        for _ in range(10):
            damaged = bytearray(data)
            for place in random.integers(8, len(data), random.integers(1, 40)):
                damaged[place] = random.integers(256)
            try:
                read_audio(bytes(damaged[: random.integers(20, len(data) + 1)]), longest=10)
            except CutworkError as error:
                assert "\n" not in str(error) and len(str(error)) < 300


READ = """
import resource, sys
from cutwork.audio import read_audio
from cutwork.errors import CutworkError
try:
    read_audio(open(sys.argv[1], "rb").read())
except CutworkError as error:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, error)
"""


def test_a_container_of_a_few_bytes_cannot_take_gigabytes(tmp_path):
    """MP4's tables say how many samples there are, and FFmpeg makes an index of them before it looks for one."""
    pytest.importorskip("resource")
    data = bytearray(container("mp4", "aac"))
    sizes, chunks = data.index(b"stsz") + 8, data.index(b"stsc") + 8
    data[sizes : sizes + 8] = struct.pack(">II", 1, 40_000_000)
    data[chunks : chunks + 16] = struct.pack(">IIII", 1, 1, 40_000_000, 1)
    (tmp_path / "bomb.mp4").write_bytes(data)
    # In a process of its own, whose children are this reader's alone.
    command = [sys.executable, "-c", READ, str(tmp_path / "bomb.mp4")]
    kilobytes, sentence = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 1)
    assert int(kilobytes) < 1 << 19
    assert "the recording" in sentence


def test_a_decoder_is_ended_when_nobody_waits_any_more(monkeypatch):
    def stop():
        raise TimeoutError

    monkeypatch.setattr("cutwork.audio.files._something_comes", lambda _: False)
    with pytest.raises(CutworkError, match="cannot read"):  # as TimeoutError is an OSError
        read_audio(container("mp4", "aac"), check=stop)


def test_pictures_without_sound_and_lists_of_files_are_not_read(tmp_path):
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = out.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    with pytest.raises(CutworkError, match="no sound"):
        read_audio(file.getvalue())
    for text in (b"ffconcat version 1.0\nfile /etc/passwd\n", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"):
        with pytest.raises(CutworkError, match="cannot read"):
            read_audio(text)


def test_without_pyav_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CutworkError, match="pip install av"):
        read_audio(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100))
