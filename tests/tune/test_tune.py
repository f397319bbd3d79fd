"""`tune` from directory to directory: a plain checkpoint that keeps every zero, or one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.tune.arguments import training_arguments
from cutwork.tune.masks import LostZerosError, sparsity
from cutwork.tune.tune import tune
from tests.torch_models.tiny import sums, weights
from tests.tune.runs import QUIET, SETTINGS, run


def test_result_is_a_plain_checkpoint_with_every_zero(uninterrupted: Path, sparse: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(uninterrupted)
    assert AutoTokenizer.from_pretrained(uninterrupted).eos_token == "<end>"
    before, after = weights(sparse), weights(uninterrupted)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if "proj" in name:
            assert (after[name][weight == 0] == 0).all()
            assert (after[name][weight != 0] != weight[weight != 0]).float().mean() > 0.9
    report = json.loads((uninterrupted / "tune-report.json").read_text())
    assert report["sparsity"] == sparsity(model)
    assert report["steps"] == 8
    lines = [json.loads(line) for line in (uninterrupted / "tune-log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {"loss", "ce", "kl", "squarehead", "grad_norm", "learning_rate", "sparsity"} <= set(lines[0])
    assert json.loads((uninterrupted / "generation_config.json").read_text())["temperature"] == 0.5
    assert model.config.use_cache, "as before training"
    assert not (uninterrupted.parent / "tuned.work").exists()


def test_dense_fine_tuning_learns(dense: Path, tmp_path: Path) -> None:
    settings = TuneSettings(max_steps=30, batch_size=10, micro_batch_size=10, learning_rate=1e-2, warmup_steps=2)
    report = tune(dense, tmp_path / "tuned", settings, sums(20), console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "tune-log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert max(report["sparsity"].values()) < 0.01


def test_no_number_of_steps_means_whole_epochs(dense: Path, tmp_path: Path) -> None:
    report = tune(dense, tmp_path / "tuned", TuneSettings(max_steps=0, batch_size=8), sums(20), console=QUIET)
    assert report["steps"] == 3


def test_a_short_training_reaches_its_learning_rate(sparse: Path, dense: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 4, "warmup_steps": 20, "losses": Losses()})
    run(sparse, tmp_path / "out", dense, settings)
    lines = (tmp_path / "out" / "tune-log.jsonl").read_text().splitlines()
    rates = [found["learning_rate"] for found in map(json.loads, lines) if "loss" in found]
    assert max(rates) == settings.learning_rate


def test_a_diverging_run_leaves_no_output_and_its_last_good_checkpoint(
    sparse: Path, dense: Path, tmp_path: Path
) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30, "schedule": "constant", "warmup_steps": 3})
    with pytest.raises(CutworkError, match="lower learning_rate") as caught:
        run(sparse, tmp_path / "tuned", dense, wild)
    assert not (tmp_path / "tuned").exists()
    [good] = (tmp_path / "tuned.work").glob("checkpoint-*")
    assert str(good) in str(caught.value)
    assert all(torch.isfinite(weight).all() for weight in weights(good).values())


def test_lost_zeros_are_an_error(sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutwork.tune.masks.Masks.mask_gradients", lambda self: None)
    monkeypatch.setattr("cutwork.tune.masks.Masks.mask_weights", lambda self: None)
    monkeypatch.setattr("cutwork.tune.masks.Masks.verify", lambda self: None)
    with pytest.raises(LostZerosError, match="zeros after training"):
        run(sparse, tmp_path / "tuned", dense)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": LoraSettings(targets=("query",))}, "no linear matches"),
        ({"teacher_device": "moon"}, "cannot put the teacher on teacher_device 'moon'"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'"),
        ({"micro_batch_size": 3}, "not a multiple of micro_batch_size"),
    ],
)
def test_bad_settings_are_one_sentence(
    change: dict[str, Any], message: str, sparse: Path, dense: Path, tmp_path: Path
) -> None:
    with pytest.raises(CutworkError, match=message):
        run(sparse, tmp_path / "tuned", dense, SETTINGS.model_copy(update=change))
    assert list(tmp_path.iterdir()) == []


def test_only_the_recipe_says_what_is_computed_in(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(CutworkError, match="launch with --mixed_precision no"):
        tune(sparse, tmp_path / "a", TuneSettings(max_steps=1), sums(4), console=QUIET)


def test_a_process_has_one_gpu_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def see_four(arguments: TrainingArguments) -> torch.device:
        arguments._n_gpu = 4
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_four))
    settings = TuneSettings(batch_size=32, micro_batch_size=8)
    found = training_arguments(tmp_path, settings, fsdp=False, validates=False)
    assert found.train_batch_size * found.gradient_accumulation_steps == 32


def test_onednn_keeps_the_kernels_of_few_shapes_unless_told_otherwise(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, settings = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", SETTINGS.model_copy(update={"losses": Losses()})
    monkeypatch.delenv(told, raising=False)
    tune(dense, tmp_path / "out", settings, sums(4), dry_run=True, console=QUIET)
    assert os.environ[told] == "64"
    monkeypatch.setenv(told, "9")
    tune(dense, tmp_path / "out", settings, sums(4), dry_run=True, console=QUIET)
    assert os.environ[told] == "9"
