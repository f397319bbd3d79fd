"""Where a run leaves what it has done so far: only where it may, and nothing of others is removed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cutwork.errors import CutworkError
from cutwork.store.lock import only_process
from cutwork.tune import tune as tune_module
from cutwork.tune.resume import remove
from tests.tune.runs import SETTINGS, run


def test_where_nothing_can_be_written_nothing_is_trained(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "load_student", lambda *_: pytest.fail("trained"))
    shutil.copytree(sparse, tmp_path / "pruned")
    with pytest.raises(CutworkError, match="already exists; choose another"):
        run(sparse, tmp_path / "pruned", dense)
    (tmp_path / "file").touch()
    with pytest.raises(CutworkError, match="is a file"):
        run(sparse, tmp_path / "file", dense)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    (tmp_path / "notes.work").mkdir()
    (tmp_path / "notes.work" / "run.json").touch()
    with pytest.raises(CutworkError, match="is not a model directory"):
        run(sparse, tmp_path / "notes", dense, overwrite=True)
    assert (tmp_path / "notes.work" / "run.json").exists()


def test_killed_when_its_output_is_there_the_rest_is_removed(sparse: Path, dense: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    run(sparse, tmp_path / "tuned", dense, settings)
    (tmp_path / "tuned.work" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "tuned.work" / "run.json").touch()
    (tmp_path / ".tuned.lock").touch()
    run(sparse, tmp_path / "tuned", dense, settings)
    assert os.listdir(tmp_path) == ["tuned"]


def test_a_foreign_work_directory_is_left(sparse: Path, dense: Path, tmp_path: Path) -> None:
    mine = tmp_path / "tuned.work" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    for overwrite in (False, True):
        with pytest.raises(CutworkError, match=r"tuned\.work is not from fine-tuning; move it away"):
            run(sparse, tmp_path / "tuned", dense, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["tuned.work"] and mine.exists()
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    mine.rename(tmp_path / "mine.txt")
    (mine.parent / ".run.json.partial-0123").touch()  # of one killed as it began
    run(sparse, tmp_path / "tuned", dense, settings)
    mine.parent.mkdir()
    mine.touch()
    run(sparse, tmp_path / "tuned", dense, settings)
    assert mine.exists()


def test_what_says_whose_a_directory_is_is_removed_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "tuned.work"
    for name in ("checkpoint-1", "runs"):
        (work / name).mkdir(parents=True)
    for name in ("run.json", "tune-log.jsonl"):
        (work / name).touch()
    original = shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if path == work:
            raise KeyboardInterrupt
        original(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        remove(work)
    assert os.listdir(work) == ["run.json"]
    remove(work)
    assert not work.exists()


def test_one_process_at_a_time(sparse: Path, dense: Path, tmp_path: Path) -> None:
    with only_process(tmp_path / ".tuned.lock", "taken"):
        with pytest.raises(CutworkError, match="another process is fine-tuning into"):
            run(sparse, tmp_path / "tuned", dense)
        with pytest.raises(CutworkError, match="taken"), only_process(tmp_path / ".tuned.lock", "taken"):
            raise AssertionError
    assert not list(tmp_path.iterdir())
