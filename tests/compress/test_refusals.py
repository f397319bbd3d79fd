"""What cannot be done is said before any work, and what lies there is kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cutwork.compress.promise import Loss
from cutwork.compress.recipe_of import MADE_BY
from cutwork.compress.workshop import Workshop
from cutwork.errors import CutworkError
from cutwork.pack.pack import pack
from tests.compress.command import FEW, call

pytestmark = pytest.mark.usefixtures("as_long_as_bytes_take")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give one goal"),
        (["--within", 1, "--speedup", 2], "give one goal"),
        (["--speedup", 0.5], "must be at least 1"),
        (["--speedup", 0], "must be at least 1"),
        (["--within", -1], "not below 0"),
        (["--memory", "600 apples"], "expected a size such as 600MB"),
        (["--speedup", 1000], r"none is more than \d\.\d+ times as fast, so not 1000; ask for less"),
        (["--memory", "1KB"], "the smallest choice of all takes"),
        (["--within", 1, "--validation-samples", 60], "leave none to train on"),
        (["--within", 1, "--test-samples", 60], "leave none to train on"),
        (["--within", 1, "--learning-rate", -1], "--learning-rate: "),
    ],
)
def test_what_cannot_be_done_is_said(
    options: list[object], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=said):
        call(given[0], tmp_path / "out", "--data", given[1], *FEW, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--within", 1], r"8 validation samples leave 48\.\d points.*give at least 741 --validation-samples"),
        (["--within", 0], r"more than --within 0; allow some, or leave --sure out"),
        (["--within", 1, "--metric", "answers"], r"leave 48\.\d points.*give at least 741 --validation-samples"),
    ],
)
def test_what_so_few_samples_cannot_be_sure_of_is_refused_before_any_work(
    options: list[object], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=said):
        call(given[0], tmp_path / "out", "--data", given[1], *FEW, "--sure", *options)
    assert not (tmp_path / "out").exists()


def test_what_trains_nothing_looks_once_at_each_choice(given: tuple[Path, Path], tmp_path: Path) -> None:
    samples = {"train_samples": 20, "validation_samples": 8, "test_samples": 8, "options": {"train": str(given[1])}}
    recipe = {"name": "x", "model": "y", "output": "z", "task": {"name": str(given[1]), **samples}, "tune": None}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    common = [given[0], tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", "--within", 1, "--sure"]
    with pytest.raises(CutworkError, match="at least 381 --validation-samples"):  # as one interval of 95% asks for
        call(*common, "--attempts", 1)


def test_points_of_nothing_are_refused_before_any_training(given: tuple[Path, Path], tmp_path: Path) -> None:
    options = [*FEW[: FEW.index("--metric")], "--metric", "answers"]
    with pytest.raises(CutworkError, match=r"none of 8 validation questions right.*give --metric tokens"):
        call(given[0], tmp_path / "out", "--data", given[1], *options, "--within", 1)
    assert not list((tmp_path / "out").glob("zeros-*"))


def test_a_promise_that_cannot_be_broken_is_refused(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    with pytest.raises(CutworkError, match=r"has 2\d\.\d points on validation, so that --within 50 cannot be broken"):
        call(given[0], out, "--data", given[1], *FEW, "--within", 50)


def test_a_sample_that_is_too_long_is_refused_before_any_work(given: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{i}" * 200, "answer": "1"}) + "\n" for i in range(40)))
    with pytest.raises(CutworkError, match=r"validation sample 1, .*has no answer within 132 tokens"):
        call(given[0], tmp_path / "out", "--data", data, *FEW, "--within", 1)
    assert not (tmp_path / "out" / "errors.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--micro-batch-size", 3], "batch_size 4 is not a multiple of micro_batch_size 3"),
        (["--long", "error", "--max-length", 6], "more than task.max_length = 6"),
    ],
)
def test_training_that_cannot_be_is_refused_before_any_work(
    options: list[object], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=said):
        call(given[0], tmp_path / "out", "--data", given[1], *FEW, "--speedup", 1.3, *options)
    assert not list(tmp_path.rglob("*.json"))


def test_an_output_that_holds_the_model_is_refused(given: tuple[Path, Path], tmp_path: Path) -> None:
    inside = shutil.copytree(given[0], tmp_path / "out" / "dense")
    for output in (inside, tmp_path / "out"):
        with pytest.raises(CutworkError, match="holds the model to read; choose another output directory"):
            call(inside, output, "--data", given[1], *FEW, "--speedup", 2, "--dry-run")


def test_what_lies_at_the_results_place_is_kept(given: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "packed").mkdir(parents=True)
    common = [given[0], out, "--speedup", 1.2]
    with pytest.raises(CutworkError, match="packed is not from cutwork compress; move it away"):
        call(*common, "--data", given[1])
    (out / "packed").rmdir()
    (out / "recipe.yaml").write_text("name: mine\n")
    with pytest.raises(CutworkError, match=r"recipe\.yaml is not from cutwork compress; move it away"):
        call(*common, "--data", given[1])
    settings = {"name": "a", "model": "b", "output": "c", "task": {"name": "gsm8k"}}
    (out / "recipe.yaml").write_text(f"# 2.00x {MADE_BY}\n{yaml.safe_dump(settings)}")
    with pytest.raises(CutworkError, match=r"recipe\.yaml would be replaced"):
        call(*common, "--recipe", out / "recipe.yaml")


def test_a_refusal_says_that_the_model_that_lies_there_is_another_calls(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.setattr(Workshop, "loss", lambda *_: Loss(5.0, 4.0, 6.0))
    options = ["--data", given[1], *FEW, "--within", 2, "--attempts", 1]
    with pytest.raises(CutworkError, match=r"none of 1 choices loses .*packed is still that of an earlier call$"):
        call(given[0], out, *options)
    shutil.rmtree(out / "packed")
    with pytest.raises(CutworkError, match=r"none of 1 choices loses (?!.*earlier call)"):
        call(given[0], out, *options)


def test_an_interruption_leaves_no_report_of_another_model(
    given: tuple[Path, Path], finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise CutworkError("interrupted")

    out = shutil.copytree(finished[0], tmp_path / "out")
    monkeypatch.setattr(Workshop, "speeds", interrupted)
    with pytest.raises(CutworkError, match="interrupted"):
        call(given[0], out, "--data", given[1], *FEW, "--speedup", 1.3)
    assert (out / "packed").is_dir() and not (out / "compress.json").exists()


def test_only_checkpoints_and_data(given: tuple[Path, Path], tmp_path: Path) -> None:
    pack(given[0], tmp_path / "packed")
    with pytest.raises(CutworkError, match="needs the plain checkpoint"):
        call(tmp_path / "packed", tmp_path / "out", "--data", given[1], "--within", 1)
    with pytest.raises(CutworkError, match="give --data"):
        call(given[0], tmp_path / "out", "--within", 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "opt"}, "does not know the architecture 'opt'"),
        ({"is_causal": False}, "a decoder that sees what comes later"),
    ],
)
def test_what_the_engine_cannot_run_is_refused_before_any_work(
    changes: dict[str, Any], said: str, given: tuple[Path, Path], tmp_path: Path
) -> None:
    model = shutil.copytree(given[0], tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CutworkError, match=said):
        call(model, tmp_path / "out", "--data", given[1], *FEW, "--within", 1)
    assert not (tmp_path / "out").exists()
