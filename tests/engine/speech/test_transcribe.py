"""Transcription against transformers' long-form generation, with its model as the decoder."""

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration

from cutwork.audio import read_audio
from cutwork.engine.speech.options import TranscribeOptions, options_from
from cutwork.engine.speech.segments import Segment
from cutwork.engine.speech.spectrogram import Spectrogram
from cutwork.engine.speech.transcribe import Transcription
from cutwork.engine.speech.vocabulary import vocabulary_of
from cutwork.errors import CutworkError
from tests.engine.speech.tiny import LANGUAGES, Torch, save, sound, tokenizer

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
        TranscribeOptions(**{**PLAIN, **options}),
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
        found = model.generate(features, return_timestamps=True, return_segments=True, **{"num_beams": 1, **options})
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


def test_a_short_recording_ends_where_it_ends(tmp_path: Path) -> None:
    ours, _ = transcription(save(tmp_path), sound(0.6))
    result = ours.result()
    assert ours._decoder.encoded == 1 and all(segment.seek < 60 for segment in result.segments)
    assert result.duration == 0.6 and result.text == "".join(s.text for s in result.segments).strip()


def test_the_language_is_detected_or_taken(tmp_path: Path) -> None:
    ours, model = transcription(save(tmp_path), sound(1.5))
    logits = ours._decoder.logits(ours._encode_at(0), [model.generation_config.decoder_start_token_id])
    ids = list(model.generation_config.lang_to_id.values())
    assert ours.language == LANGUAGES[int(np.argmax(logits[ids]))]
    assert sum(chance for _, chance in ours.language_probabilities) == pytest.approx(1)
    given, _ = transcription(tmp_path, sound(1.5), language="German", task="translate")
    assert given.language == "de" and not given.language_probabilities
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words.convert_ids_to_tokens(given._prompt) == ["<|startoftranscript|>", "<|de|>", "<|translate|>"]


@pytest.mark.parametrize("multilingual", [True, False])
def test_control_tokens_are_never_written(tmp_path: Path, multilingual: bool) -> None:
    names = ("startoftranscript", "startofprev", "nospeech", "transcribe", "translate", "startoflm")
    ids = {tokenizer().convert_tokens_to_ids(f"<|{name}|>") for name in names}
    save(tmp_path, multilingual=multilingual)
    for given, expected in (([7], {7} | ids), (None, ids), ([], ids), ([7, -1], {7, 5, min(ids)})):
        ours, _ = transcription(tmp_path, sound(0.6), suppress_tokens=given, without_timestamps=True, language="en")
        scores = np.zeros(ours._vocabulary.first_time, np.float32)
        ours._rules()(scores, [1])
        assert set(np.flatnonzero(np.isneginf(scores))) == expected


def test_what_a_model_cannot_do_is_told(tmp_path: Path) -> None:
    save(tmp_path, multilingual=False)
    with pytest.raises(CutworkError, match="English only"):
        transcription(tmp_path, sound(1.0), language="de")
    with pytest.raises(CutworkError, match="cannot translate"):
        transcription(tmp_path, sound(1.0), task="translate")
    with pytest.raises(CutworkError, match="initial_prompt holds one of the model's special tokens"):
        transcription(tmp_path, sound(1.0), initial_prompt="<|endoftext|>")
    with pytest.raises(CutworkError, match="unknown option 'beams'"):
        options_from({"beams": 5})
    with pytest.raises(CutworkError, match="beam_size must be from 1 to 64"):
        options_from({"beam_size": 0})
    with pytest.raises(CutworkError, match="only Whisper models transcribe"):
        vocabulary_of(tmp_path, {"model_type": "llama"}, None)


def test_languages_and_tasks_are_found_by_their_names_in_older_models(tmp_path: Path) -> None:
    file = save(tmp_path) / "generation_config.json"
    settings = json.loads(file.read_text())
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 51_865}
    told = vocabulary_of(tmp_path, config, tokenizer())
    assert told.multilingual and set(told.tasks) == {"transcribe", "translate"}
    file.write_text(json.dumps({k: v for k, v in settings.items() if k not in ("lang_to_id", "task_to_id")}))
    assert vocabulary_of(tmp_path, config, tokenizer()) == told
    assert not vocabulary_of(tmp_path, config | {"vocab_size": 51_864}, tokenizer()).multilingual


def test_what_is_not_written_follows_the_generation_config_alone_where_there_is_one(tmp_path: Path) -> None:
    file = save(tmp_path) / "generation_config.json"
    settings = json.loads(file.read_text())
    lists = {"suppress_tokens": [1, 2, 7], "begin_suppress_tokens": [4]}
    config = json.loads((tmp_path / "config.json").read_text()) | lists
    others = {key: value for key, value in settings.items() if key not in lists}
    for more in ({}, {"suppress_tokens": [], "begin_suppress_tokens": []}, dict.fromkeys(lists)):
        file.write_text(json.dumps(others | more))
        told = vocabulary_of(tmp_path, config, tokenizer())
        assert told.suppressed == told.suppressed_first == ()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_number_is_an_error_that_nobody_can_read(value: float, tmp_path: Path) -> None:
    save(tmp_path)
    numbers = {field.name for field in fields(TranscribeOptions) if "float" in str(field.type)}
    assert "max_initial_timestamp" in numbers
    for name in numbers:
        with suppress(CutworkError):
            transcription(tmp_path, sound(0.3), language="en", **{name: value})[0].result()


def test_doubt_raises_the_temperature(tmp_path: Path) -> None:
    options = {"temperature": (0.0, 0.4, 0.8), "best_of": 2, "seed": 1}
    ours, _ = transcription(save(tmp_path), sound(1.5), **options, log_prob_threshold=0.0)
    assert {segment.temperature for segment in ours.result().segments} <= {0.8}
    ours, _ = transcription(tmp_path, sound(1.5), **options, log_prob_threshold=-1000.0)
    assert {segment.temperature for segment in ours.result().segments} <= {0.0}
    ours, _ = transcription(tmp_path, sound(1.5), **options, compression_ratio_threshold=0.0)
    assert {segment.temperature for segment in ours.result().segments} <= {0.8}


def test_silence_is_skipped(tmp_path: Path) -> None:
    silent = {"no_speech_threshold": 0.0, "log_prob_threshold": 0.0}
    assert transcription(save(tmp_path), sound(2.5), **silent)[0].result().segments == []
    heard = {"no_speech_threshold": 0.0, "log_prob_threshold": -1000.0}
    assert transcription(tmp_path, sound(2.5), **heard)[0].result().segments


def test_what_was_said_is_shown_to_the_decoder(tmp_path: Path) -> None:
    ours, model = transcription(save(tmp_path), sound(3.5), initial_prompt="Ann", condition_on_previous_text=False)
    start = model.generation_config.prev_sot_token_id
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert ours._with_history() == [start, *words(" Ann")["input_ids"], *ours._prompt]
    ours.result()
    assert ours._with_history() == ours._prompt
    ours, _ = transcription(tmp_path, sound(3.5))
    said = [token for segment in ours.result().segments for token in segment.tokens]
    assert len(said) > 31 and ours._with_history() == [start, *said[-31:], *ours._prompt]


def test_progress_and_times_without_timestamps(tmp_path: Path) -> None:
    ours, _ = transcription(save(tmp_path), sound(2.5), without_timestamps=True)
    done: list[tuple[float, float]] = []
    ours._progress = lambda *seconds: done.append(seconds)
    assert [(s.start, s.end) for s in ours.result().segments] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert done == [(1.0, 2.5), (2.0, 2.5), (2.5, 2.5)]


def test_words_lie_in_their_segments(tmp_path: Path) -> None:
    ours, _ = transcription(save(tmp_path), sound(3.5), word_timestamps=True)
    segments = ours.result().segments
    assert segments
    for segment in segments:
        assert segment.words and "".join(word.word for word in segment.words) == segment.text
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times) and segment.start <= times[0] and times[-1] <= segment.end
        assert all(0 <= word.probability <= 1 for word in segment.words)


def test_times_count_in_the_whole_recording_after_silence_was_left_out(tmp_path: Path) -> None:
    audio = np.concatenate([sound(1.0), np.zeros(64_000, np.float32), sound(1.0, seed=1)])
    ours, _ = transcription(
        save(tmp_path), audio, vad_filter=True, vad_parameters={"speech_pad_ms": 100, "decibels": 9}
    )
    result = ours.result()
    assert result.duration == 6.0 and 1.5 < result.duration_after_vad < 3
    times = [time for segment in result.segments for time in (segment.start, segment.end)]
    assert all(time <= 1.2 or time >= 4.8 for time in times)
    assert any(segment.end > 5 for segment in result.segments)
    empty, _ = transcription(tmp_path, np.zeros(16_000, np.float32), vad_filter=True)
    assert empty.result().segments == []


def two_minutes(clips: list[Path]) -> np.ndarray:
    """The clips one after the other with pauses, again and again."""
    parts: list[np.ndarray] = []
    for number, clip in enumerate(clips * 5):
        parts += [read_audio(clip), np.zeros(round(16_000 * (0.3 + 0.7 * (number % 3))), np.float32)]
    return np.concatenate(parts)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [False, True])
def test_two_minutes_of_real_speech_are_as_transformers_hears_them(
    condition: bool, whisper_tiny: Path, clips: list[Path]
) -> None:
    audio = two_minutes(clips)
    assert len(audio) > 120 * 16_000
    ours, model = transcription(whisper_tiny, audio, condition_on_previous_text=condition, max_initial_timestamp=1.0)
    expected = reference(whisper_tiny, model, audio, condition_on_prev_tokens=condition)
    found, words = ours.result(), AutoTokenizer.from_pretrained(whisper_tiny)
    assert shown(found.segments) == with_text(expected, words, model.config.eos_token_id)
    assert "Mr. John Dashwood had then leisure" in found.text
