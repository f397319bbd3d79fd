"""Reading recordings: in blocks, as if it were done at once, and no more than is allowed."""

import io

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


@pytest.mark.parametrize(("rate", "channels"), [(400_000, 1), (8_000, 9)])
def test_rates_and_channels_that_no_recording_has(rate, channels):
    with pytest.raises(CutworkError, match="channels at"):
        read_audio(recording(0.01, rate, channels, "WAV"))


def test_too_little_memory_is_told(monkeypatch):
    def short(*_, **__):
        raise MemoryError

    data = recording(0.1, RATE, 1)
    monkeypatch.setattr(np, "concatenate", short)
    with pytest.raises(CutworkError, match="more memory"):
        read_audio(data)
