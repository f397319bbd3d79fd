"""Folders of recordings as tasks, and word error rates."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cutwork.errors import CutworkError
from cutwork.recipe import TaskSettings
from cutwork.run.stages import sample_digest
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task
from cutwork.tasks.wer import error_rates, word_errors


def folder(directory: Path, *texts: str, rate: int = 8_000) -> Path:
    directory.mkdir(parents=True)
    rows = []
    for number, text in enumerate(texts):
        soundfile.write(directory / f"{number}.flac", np.sin(np.arange(rate) / (3 + number)), rate)
        rows.append({"file_name": f"{number}.flac", "text": text})
    (directory / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return directory


def load(directory: Path, train: int = 10, test: int = 10, **options: str) -> Task:
    settings = TaskSettings(
        name="speech", train_samples=train, test_samples=test, options={"directory": str(directory), **options}
    )
    return load_task(settings)


def test_a_folder_of_audio_is_a_task(tmp_path: Path) -> None:
    folder(tmp_path / "train", "one", "two", "three")
    folder(tmp_path / "test", "four")
    task = load(tmp_path, train=2, language="de")
    assert [(s.prompt, s.answer) for s in task.train] == [("de", "one"), ("de", "two")]
    assert [s.answer for s in task.test] == ["four"]
    assert task.test[0].audio.shape == (16_000,) and task.test[0].audio.dtype == np.float32


def test_a_single_folder_is_what_is_tested_on(tmp_path: Path) -> None:
    task = load(folder(tmp_path / "clips", "one", "two"))
    assert task.train == () and [s.answer for s in task.test] == ["one", "two"]


def test_a_folder_may_be_given_as_the_tasks_name(tmp_path: Path) -> None:
    clips = folder(tmp_path / "clips", "one")
    assert load_task(TaskSettings(name=str(clips))).test[0].answer == "one"


def test_a_column_gives_the_language(tmp_path: Path) -> None:
    clips = folder(tmp_path / "clips", "eins")
    (clips / "metadata.jsonl").unlink()
    (clips / "metadata.csv").write_text("path,sentence,language\n0.flac,eins,de\n")
    task = load(clips, audio="path", transcript="sentence", language="en")
    assert task.test[0].prompt == "de"


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match=r"has no metadata.jsonl or transcripts.jsonl"):
        load(tmp_path)
    clips = folder(tmp_path / "clips", "one")
    with pytest.raises(CutworkError, match="row 1: expected 'file_name' and 'words'"):
        load(clips, transcript="words")
    (clips / "0.flac").unlink()
    with pytest.raises(CutworkError, match=r"row 1: there is no recording 0.flac"):
        load(clips)


def test_recordings_without_a_transcript_are_left_out(tmp_path: Path) -> None:
    folder(tmp_path / "train", "two", "", "four")
    folder(tmp_path / "test", "one", "", "three")
    task = load(tmp_path, test=2)
    assert [s.answer for s in task.test] == ["one", "three"]
    assert [s.is_empty for s in task.train] == [False, True, False]  # which training counts


def test_another_recording_is_another_sample() -> None:
    sound = np.ones(10, np.float32)
    assert sample_digest((Sample("", "a", sound),)) != sample_digest((Sample("", "a", 2 * sound),))
    assert sample_digest((Sample("", "a"),)) != sample_digest((Sample("", "a", sound),))


def test_word_errors_after_whispers_normalisation(tmp_path: Path) -> None:
    samples = [Sample("", "He had forty-eight colours, Mr. Smith!"), Sample("de", "Größe, bitte."), Sample("en", "...")]
    replies = ["he had 48 colours mister", "grosse Bitte", "anything"]
    counted = word_errors(samples, replies)
    assert (counted.errors, counted.words) == (2, 8)  # Smith is missing, Größe is another word
    (tmp_path / "normalizer.json").write_text('{"colours": "colors"}')
    assert word_errors([Sample("", "colours")], ["colors"], tmp_path).rate == 0
    assert word_errors([Sample("", "colours")], ["colors"]).rate == 100
    assert word_errors([Sample("", "<|0.00|> Hello.<|1.50|>")], ["hello"]).errors == 0
    with pytest.raises(CutworkError, match="no transcript"):
        word_errors([Sample("", "...")], ["x"])


@pytest.mark.parametrize(
    ("language", "said", "heard", "errors"),
    [
        ("ja", "今日はとても良い天気ですね", "今日はとても良い天気です", (1, 13)),
        ("Japanese", "はい、そうです。", "はいそうです", (0, 6)),
        ("zh-CN", "你好，世界", "你好 世 界", (0, 4)),
        ("th", "ที่นี่", "ที่นี้", (1, 2)),
        ("hi", "वह घर जाता है।", "वह घर जाती है", (1, 4)),
        ("de", "Größe ❤️, bitte.", "größe bitte", (0, 2)),
    ],
)
def test_errors_are_counted_as_a_language_is_written(
    language: str, said: str, heard: str, errors: tuple[int, int]
) -> None:
    counted = word_errors([Sample(language, said)], [heard])
    assert (counted.errors, counted.words) == errors


def test_characters_and_words_are_not_counted_together() -> None:
    german, japanese = Sample("de", "eins zwei"), Sample("ja", "はい")
    assert error_rates([german], ["eins"]) == {"wer": 50}
    assert error_rates([japanese], ["は"]) == {"cer": 50}
    assert error_rates([german, japanese, Sample("th", "[laughs]")], ["eins", "はい", "x"]) == {"wer": 50, "cer": 0}
    with pytest.raises(CutworkError, match="no transcript"):
        error_rates([Sample("ja", "...")], ["x"])
