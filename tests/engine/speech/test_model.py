"""`Model.transcribe` and `cutwork transcribe` on a tiny random Whisper."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import AutoTokenizer, WhisperForConditionalGeneration
from typer.testing import CliRunner

from cutwork import Model
from cutwork.audio import read_audio
from cutwork.cli import app
from cutwork.engine.speech.adapter import Stopped, open_transcription
from cutwork.engine.speech.options import TranscribeOptions
from cutwork.errors import CutworkError
from cutwork.measure.quality import accuracy
from cutwork.recipe import TaskSettings
from cutwork.tasks.load import load_task
from tests.engine.speech.test_transcribe import (
    PLAIN,
    reference,
    shown,
    transcription,
    two_minutes,
    with_text,
)
from tests.engine.speech.tiny import END, save, sound

PLAINLY = ["--beam-size", "1", "--temperature", "0", "--no-speech-threshold", "1", "--log-prob-threshold", "-1000"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whisper"), 4)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.flac", sound(2.5), 16_000)
    return tmp_path / "clip.flac"


def load(path: Path) -> Model:
    return Model.load(path, threads=1, cache_bytes=1 << 24)


@pytest.mark.parametrize("condition", [False, True])
def test_the_engine_hears_what_transformers_hears(path: Path, condition: bool) -> None:
    with load(path) as model:
        for seed in range(3):
            audio = sound(3.3, seed)
            _, torch_model = transcription(path, audio)
            expected = reference(path, torch_model, audio, condition_on_prev_tokens=condition)
            found = model.transcribe(audio, **PLAIN, condition_on_previous_text=condition)
            assert shown(found.segments) == with_text(expected, AutoTokenizer.from_pretrained(path), END)


def with_long_pauses(clips: list[Path]) -> np.ndarray:
    """Two minutes of clips between silence and faint noise, some of it longer than a window."""
    noise = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    for clip, pause in zip(clips, (0.5, 35, 2, 45, 10), strict=False):
        parts += [read_audio(clip), noise.normal(0, 0.002 * (pause > 40), round(16_000 * pause)).astype(np.float32)]
    return np.concatenate(parts)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("condition", [False, True])
@pytest.mark.parametrize("recording", [two_minutes, with_long_pauses])
def test_the_engine_hears_minutes_of_real_speech_as_transformers_does(
    recording: Callable[[list[Path]], np.ndarray], condition: bool, beams: int, whisper_tiny: Path, clips: list[Path]
) -> None:
    audio = recording(clips)
    thresholds = {"compression_ratio_threshold": 2.4, "no_speech_threshold": 0.6}
    with Model.load(whisper_tiny, threads=1) as model:
        found = model.transcribe(
            audio,
            beam_size=beams,
            temperature=0.0,
            log_prob_threshold=-1.0,
            condition_on_previous_text=condition,
            **thresholds,
        )
    torch_model = WhisperForConditionalGeneration.from_pretrained(whisper_tiny)
    expected = reference(
        whisper_tiny,
        torch_model,
        audio,
        num_beams=beams,
        temperature=(0.0,),
        logprob_threshold=-1.0,
        condition_on_prev_tokens=condition,
        **thresholds,
    )
    words = AutoTokenizer.from_pretrained(whisper_tiny)
    assert shown(found.segments) == with_text(expected, words, torch_model.config.eos_token_id)
    assert found.duration > 115 and "Mr. John Dashwood" in found.text


def test_beams_samples_words_and_log_probabilities(path: Path) -> None:
    audio = sound(1.5, 2)
    with load(path) as model:
        ours, _ = transcription(path, audio, word_timestamps=True)
        greedy = model.transcribe(audio, **PLAIN, word_timestamps=True)
        for segment, other in zip(greedy.segments, ours.result().segments, strict=True):
            assert segment.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
            assert segment.words and other.words
            assert [(w.word, w.start, w.end) for w in segment.words] == [(w.word, w.start, w.end) for w in other.words]
        beams = model.transcribe(audio, **{**PLAIN, "beam_size": 4})
        assert beams.segments[0].avg_logprob < 0
        doubt = {**PLAIN, "temperature": (0.0, 0.7), "log_prob_threshold": 0.0, "best_of": 3, "seed": 1}
        sampled = [model.transcribe(audio, **doubt) for _ in range(2)]
        assert sampled[0] == sampled[1] and {segment.temperature for segment in sampled[0].segments} == {0.7}
        pieces = list(model.transcribe(audio, stream=True, **PLAIN))
        assert [piece.text for piece in pieces] == [segment.text for segment in greedy.segments]


def test_what_is_no_speech_is_refused(path: Path, tmp_path: Path) -> None:
    with load(path) as model:
        with pytest.raises(CutworkError, match="unknown option 'beams'"):
            model.transcribe(sound(1), beams=2)
        with pytest.raises(CutworkError, match=r"cannot read the recording nowhere\.wav: no such file or directory$"):
            model.transcribe("nowhere.wav")
        with pytest.raises(CutworkError, match="cannot read the recording: "):
            model.transcribe(b"no sound")
        with pytest.raises(CutworkError, match="mono floats"):
            model.transcribe(np.zeros((2, 100), np.float32))
        with pytest.raises(CutworkError, match="not finite"):
            model.transcribe(np.full(100, np.nan, np.float32))


def test_a_transcription_can_be_stopped(path: Path) -> None:
    with load(path) as model:
        with pytest.raises(Stopped):
            open_transcription(model, sound(1), TranscribeOptions(**PLAIN), stopped=lambda: True).result()
        assert not model.session.busy and model.session.scheduler.cache.free == model.session.scheduler.cache.blocks


def test_word_error_rates_are_measured(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("jiwer")
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", sound(0.9), 16_000)
    (tmp_path / "clips" / "transcripts.csv").write_text("file_name,text,language\na.wav,one two,de\n")
    with load(path) as model:
        score = accuracy(model, load_task(TaskSettings(name=str(tmp_path / "clips"))), max_new_tokens=20)
    assert score.quality["wer"] >= 50 and score.samples == 1


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["transcribe", *map(str, arguments), "--threads", "1"])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_files_become_text_and_subtitles(path: Path, clip: Path, tmp_path: Path) -> None:
    with load(path) as model:
        expected = model.transcribe(sound(2.5), **{**PLAIN, "max_initial_timestamp": 1.0})
    live = run(path, clip, *PLAINLY)
    assert live.count(" --> ") == len(expected.segments) > 0 and live.startswith("[00:0")
    found = json.loads(run(path, clip, *PLAINLY, "--json", "--language", expected.language))
    assert found["text"] == expected.text and found["language_probability"] is None
    run(path, clip, *PLAINLY, "--output-dir", tmp_path / "out", "--format", "srt", "--format", "txt")
    assert sorted(file.name for file in (tmp_path / "out").glob("[!.]*")) == ["clip.srt", "clip.txt"]
    before = (tmp_path / "out" / "clip.srt").stat().st_mtime_ns
    run(path, clip, *PLAINLY, "--output-dir", tmp_path / "out", "--format", "srt")
    assert (tmp_path / "out" / "clip.srt").stat().st_mtime_ns == before, "what is there is not made again"


def test_one_bad_file_does_not_stop_the_others(path: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(CutworkError, match="1 of 2 recordings could not be transcribed"):
        run(path, tmp_path / "bad.wav", clip, *PLAINLY, "--output-dir", tmp_path / "out")
    assert (tmp_path / "out" / "clip.json").is_file()
    with pytest.raises(CutworkError, match="two recordings are called clip"):
        run(path, clip, tmp_path / "other" / "clip.wav", "--output-dir", tmp_path / "out")
    with pytest.raises(CutworkError, match="--temperature must be numbers"):
        run(path, clip, "--temperature", "warm")


def test_processes_write_what_one_does_and_go_on_behind_a_bad_file(path: Path, clip: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, sound(0.9), 16_000)
    (tmp_path / "bad.wav").write_text("no sound")
    shown, told = (run(path, clip, short, *PLAINLY, *more) for more in ([], ["--workers", 2]))
    assert told == shown and told.count(" --> ") >= 2 and told.index("clip.flac:") < told.index("short.wav:")
    both = json.loads(run(path, clip, short, *PLAINLY, "--workers", 2, "--json"))
    assert [each["file"] for each in both] == [str(clip), str(short)]
    out = tmp_path / "out"
    with pytest.raises(CutworkError, match="1 of 3 recordings could not be transcribed"):
        run(path, tmp_path / "bad.wav", clip, short, *PLAINLY, "--output-dir", out, "--workers", 2)
    assert sorted(file.name for file in out.glob("*.json")) == ["clip.json", "short.json"]
    assert json.loads((out / "clip.json").read_text())["text"] == both[0]["text"]


def test_tokens_that_are_not_there_cannot_be_kept_silent(path: Path) -> None:
    with Model.load(path, threads=1, cache_bytes=1 << 24) as model:
        last = model.config["vocab_size"] - 1
        assert model.transcribe(sound(1.0), language="de", beam_size=1, suppress_tokens=(last,)).duration == 1.0
        with pytest.raises(CutworkError, match=f"suppress_tokens: there is no token {last + 1}; there are {last + 1}"):
            model.transcribe(sound(1.0), language="de", suppress_tokens=(last + 1,))
