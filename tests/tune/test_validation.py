"""What is measured while training on samples that are not trained on, and what that decides."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from rich.console import Console
from torch.nn import functional
from transformers import AutoModelForCausalLM, Trainer

from cutwork.errors import CutworkError
from cutwork.recipe import Gradual, LoraSettings, TaskSettings, TuneSettings
from cutwork.tasks.load import hold_out, load_task
from cutwork.tasks.rendering import render
from cutwork.tasks.task import Sample, Task
from cutwork.torch_models.load import load_model, load_tokenizer
from cutwork.tune.masks import sparsity
from cutwork.tune.trackers import trackers
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, sums, weights

SAMPLES = sums(30)
TRAIN, VALIDATION = SAMPLES[:20], [*SAMPLES[20:], Sample("long", "x" * 99)]
STEADY = TuneSettings(
    max_steps=6, batch_size=4, micro_batch_size=2, save_every=2, warmup_steps=0, learning_rate=1e-3, dtype="float32"
)
# On wrong answers, so that it gets worse and worse.
WRONG = [Sample(sample.prompt, "no idea") for sample in TRAIN]
ASTRAY = STEADY.model_copy(update={"max_steps": 12, "learning_rate": 1e-2})


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse")
    torch.manual_seed(0)
    cut(load_model(directory, torch.float32), 0.6).save_pretrained(directory)
    return directory


def run(sparse: Path, output: Path, settings: TuneSettings, **options: Any) -> dict[str, Any]:
    options = {"validation": VALIDATION, "console": Console(quiet=True), **options}
    samples = WRONG if settings.max_steps == ASTRAY.max_steps else TRAIN
    return tune(sparse, output, settings, samples, max_length=64, **options)


def cross_entropy(model_dir: Path) -> float:
    """Per answer token of the validation samples that are short enough, one after the other."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), load_tokenizer(model_dir)
    total, count = 0.0, 0
    for sample in VALIDATION[:-1]:
        ids, labels = render(tokenizer, sample)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        total += functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item()
        count += sum(label != -100 for label in labels)
    return total / count


def test_the_validation_loss_is_the_cross_entropy_of_the_answers(sparse: Path, tmp_path: Path) -> None:
    report = run(sparse, tmp_path / "out", STEADY)
    found = report["validation"]
    assert found == json.loads((tmp_path / "out" / "tune-report.json").read_text())["validation"]
    losses = dict(found["losses"])
    assert (found["samples"], found["dropped"], found["step"]) == (10, 1, 6)
    assert list(losses) == [2, 4, 6]
    assert found["loss"] == losses[6] == pytest.approx(cross_entropy(tmp_path / "out"), rel=1e-5)
    assert found["loss"] < losses[2]
    run(sparse, tmp_path / "without", STEADY, validation=())
    trained, without = weights(tmp_path / "out"), weights(tmp_path / "without")
    assert all(torch.equal(weight, without[name]) for name, weight in trained.items())
    assert len((tmp_path / "out" / "tune-log.jsonl").read_text().splitlines()) == 6
    with pytest.raises(CutworkError, match="made with another validation"):
        run(sparse, tmp_path / "out", STEADY, validation=VALIDATION[:3])


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_the_best_checkpoint_is_what_is_written(sparse: Path, tmp_path: Path, lora: LoraSettings | None) -> None:
    settings = ASTRAY.model_copy(update={"keep_best": True, "lora": lora, "learning_rate": 0.1 if lora else 1e-2})
    found = run(sparse, tmp_path / "out", settings)["validation"]
    losses = dict(found["losses"])
    assert found["loss"] == min(losses.values()) < losses[12]
    assert losses[found["step"]] == found["loss"] == pytest.approx(cross_entropy(tmp_path / "out"), rel=1e-5)
    before, after = (sparsity(load_model(path, torch.float32)) for path in (sparse, tmp_path / "out"))
    assert all(after[name] >= zeros for name, zeros in before.items())


def test_patience_ends_a_run_that_gets_no_better(sparse: Path, tmp_path: Path) -> None:
    report = run(sparse, tmp_path / "out", ASTRAY.model_copy(update={"patience": 1}))
    losses = dict(report["validation"]["losses"])
    assert report["steps"] == max(losses) < 12
    assert losses[report["steps"]] > report["validation"]["loss"] == min(losses.values())


@pytest.mark.parametrize("how", [{"keep_best": True}, {"patience": 1}])
def test_killed_after_its_last_step_a_run_takes_no_other(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    settings = ASTRAY.model_copy(update=how)
    straight = run(sparse, tmp_path / "straight", settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cutwork.tune.tune.output_directory", Mock(side_effect=KeyboardInterrupt))
        run(sparse, tmp_path / "resumed", settings)
    monkeypatch.setattr(SparseTrainer, "training_step", Mock(side_effect=AssertionError))
    resumed = run(sparse, tmp_path / "resumed", settings)
    assert resumed["validation"] == straight["validation"] and resumed["steps"] == straight["steps"]
    one, two = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


@pytest.mark.parametrize("how", [{"keep_best": True}, {"patience": 2}])
def test_an_interrupted_run_ends_with_the_same_best(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    settings = ASTRAY.model_copy(update=how)
    straight = run(sparse, tmp_path / "straight", settings)
    assert straight["steps"] < 12 or "patience" not in how
    original = SparseTrainer.training_step

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        if self.state.global_step == straight["steps"] - 1:  # after the first of the evaluations that end it
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SparseTrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, tmp_path / "resumed", settings)
    resumed = run(sparse, tmp_path / "resumed", settings)
    assert resumed["validation"] == straight["validation"] and resumed["steps"] == straight["steps"]
    one, two = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_moved_when_its_last_step_was_done_a_run_ends_with_the_same_best(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ASTRAY.model_copy(update={"keep_best": True})
    straight = run(sparse, tmp_path / "straight", settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_finalize_training", Mock(side_effect=KeyboardInterrupt))
        run(sparse, tmp_path / "there" / "out", settings)
    shutil.copytree(tmp_path / "there", tmp_path / "lost")
    (tmp_path / "there").rename(tmp_path / "here")
    resumed = run(sparse, tmp_path / "here" / "out", settings)
    assert resumed["validation"] == straight["validation"] and resumed["steps"] == straight["steps"]
    one, two = weights(tmp_path / "straight"), weights(tmp_path / "here" / "out")
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    best = f"checkpoint-{straight['validation']['step']}"
    shutil.rmtree(tmp_path / "lost" / "out.work" / best)
    with pytest.raises(CutworkError, match=f"{best}, is gone"):
        run(sparse, tmp_path / "lost" / "out", settings)


def test_what_has_no_meaning_is_refused(sparse: Path, tmp_path: Path) -> None:
    for settings, validation, message in (
        ({"patience": 2}, (), "set task.validation_samples"),
        ({"keep_best": True, "gradual": Gradual(sparsity=0.7)}, VALIDATION, "fewer zeros"),
        ({"report_to": ("wandbb",)}, (), "unknown tracker 'wandbb'; known: .*tensorboard.*, none"),
    ):
        with pytest.raises(CutworkError, match=message):
            run(sparse, tmp_path / "out", STEADY.model_copy(update=settings), validation=validation)
    assert not (tmp_path / "out.work").exists()


def test_trackers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["mlflow", "tensorboard"]
    monkeypatch.setattr("cutwork.tune.trackers.get_available_reporting_integrations", lambda: there)
    assert trackers(()) == ["tensorboard"]
    assert trackers(("none",)) == []
    assert trackers(("mlflow", "tensorboard")) == ["mlflow", "tensorboard"]
    with pytest.raises(CutworkError, match="trackio is not installed; install it with: pip install trackio"):
        trackers(("tensorboard", "trackio"))
    there.clear()
    assert trackers(()) == []
    assert "report_to" not in TuneSettings(report_to=("mlflow",)).model_dump()  # runs begun with another go on


def test_validation_samples_are_drawn_from_those_of_training(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i % 8}", "answer": "a"}) + "\n" for i in range(16)))
    settings = TaskSettings(
        name="jsonl", train_samples=12, validation_samples=4, options={"train": str(path), "test": str(path)}
    )
    settings = settings.model_copy(update={"test_samples": 1})
    task = load_task(settings)
    assert len(task.validation) == 4
    assert not {sample.prompt for sample in task.train} & {sample.prompt for sample in task.validation}
    assert load_task(settings) == task != load_task(settings.model_copy(update={"seed": 1}))
    assert "0" not in {sample.prompt for sample in task.train + task.validation}  # which is tested with
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{i % 8}"}) + "\n" for i in range(16)))
    options = {"train": str(texts), "test": str(texts)}
    plain = load_task(settings.model_copy(update={"options": options}))
    assert plain.train and not {s.answer for s in plain.train} & {s.answer for s in plain.validation + plain.test}
    with pytest.raises(CutworkError, match="3 training samples; 3 for validation leave none"):
        hold_out(Task("few", tuple(SAMPLES[:3]), ()), 3, 0)
