"""Transcription against transformers' long-form generation, with its model as the decoder."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from cutwork.audio import read_audio
from cutwork.engine.speech.options import Options
from cutwork.engine.speech.segments import Segment
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.transcribe import Transcription
from cutwork.engine.speech.vocabulary import vocabulary_of
from tests.speech.tiny import Torch, save, sound

PLAIN = {
    "beam_size": 1,
    "temperature": 0.0,
    "compression_ratio_threshold": None,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
    "max_initial_timestamp": 0.2,
}


def transcription(path: Path, audio: np.ndarray, **options: Any) -> tuple[Transcription, Any]:
    model = WhisperForConditionalGeneration.from_pretrained(path)
    words = AutoTokenizer.from_pretrained(path)
    config = model.config.to_dict()
    made = Transcription(
        Torch(model),
        words,
        vocabulary_of(path, config, words),
        Spectrogram.of_model(path, model.config.num_mel_bins),
        audio,
        Options(**{**PLAIN, **options}),
        window=2 * model.config.max_source_positions,
        context=model.config.max_target_positions,
    )
    return made, model


def reference(path: Path, model: Any, audio: np.ndarray, **options: Any) -> list[tuple[float, float, list[int]]]:
    """(start, end, tokens) of the segments that transformers finds."""
    extractor = WhisperFeatureExtractor.from_pretrained(path)
    features = extractor(
        audio, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest"
    ).input_features
    if model.generation_config.is_multilingual:
        options["task"] = "transcribe"
    with torch.inference_mode():
        found = model.generate(features, return_timestamps=True, return_segments=True, num_beams=1, **options)
    first = model.generation_config.no_timestamps_token_id + 1
    rows = []
    for segment in found["segments"][0]:
        tokens = segment["tokens"].tolist()
        if len(tokens) > 2 and tokens[-2] >= first:  # transformers notes that the next one had begun
            tokens = tokens[:-1]
        rows.append((round(float(segment["start"]), 2), round(float(segment["end"]), 2), tokens))
    return rows


def shown(segments: list[Segment]) -> list[tuple[float, float, list[int]]]:
    return [(segment.start, segment.end, segment.tokens) for segment in segments]


def with_text(rows: list[tuple[float, float, list[int]]], words: Any, end: int) -> list[tuple[float, float, list[int]]]:
    return [row for row in rows if words.decode([token for token in row[2] if token < end]).strip()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("condition", [False, True])
def test_segments_are_those_of_transformers(tmp_path: Path, seed: int, condition: bool) -> None:
    path, audio = save(tmp_path, seed, multilingual=seed % 2 == 0), sound(3.3 + seed / 7, seed)
    ours, model = transcription(path, audio, condition_on_previous_text=condition)
    expected = reference(path, model, audio, condition_on_prev_tokens=condition)
    found = shown(ours.result().segments)
    assert found == with_text(expected, AutoTokenizer.from_pretrained(path), model.config.eos_token_id)
    assert len(found) >= 3


CLIPS = Path(os.environ.get("CUTWORK_TEST_SPEECH", "../shared/data/speech_en"))
TINY = Path(os.environ.get("CUTWORK_TEST_WHISPER", "whisper-tiny.en"))


def two_minutes() -> np.ndarray:
    """The clips one after the other with pauses, again and again."""
    parts: list[np.ndarray] = []
    for number, clip in enumerate(sorted(CLIPS.glob("*.wav")) * 5):
        parts += [read_audio(clip), np.zeros(round(16_000 * (0.3 + 0.7 * (number % 3))), np.float32)]
    return np.concatenate(parts)


@pytest.mark.slow
@pytest.mark.skipif(not (CLIPS.is_dir() and TINY.is_dir()), reason="needs real clips and Whisper-tiny.en")
@pytest.mark.parametrize("condition", [False, True])
def test_two_minutes_of_real_speech_are_as_transformers_hears_them(condition: bool) -> None:
    audio = two_minutes()
    assert len(audio) > 120 * 16_000
    ours, model = transcription(TINY, audio, condition_on_previous_text=condition, max_initial_timestamp=1.0)
    expected = reference(TINY, model, audio, condition_on_prev_tokens=condition)
    found = ours.result()
    assert shown(found.segments) == with_text(expected, AutoTokenizer.from_pretrained(TINY), model.config.eos_token_id)
    assert "Mr. John Dashwood had then leisure" in found.text
