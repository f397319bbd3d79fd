"""What was interrupted goes on, and ends bit for bit as if it had not been."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, Trainer

from cutwork.errors import CutworkError
from cutwork.prune.pattern import Pattern
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.torch_models.load import load_model
from cutwork.tune import tune as tune_module
from cutwork.tune.console import read_log
from cutwork.tune.masks import sparsity
from cutwork.tune.resume import _check_same
from cutwork.tune.trainer import SparseTrainer
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut_to, every_pattern, holds, weights
from tests.tune.runs import SETTINGS, interrupt_at, run


def run_until(micro_batch: int, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    """A run that is interrupted there."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, micro_batch)
        run(*arguments)


def same(straight: Path, resumed: Path) -> bool:
    expected, found = weights(straight), weights(resumed)
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("micro_batch", "saved"),
    [(2, None), (7, 1), (9, 2), (11, 3), (15, 4)],
    ids=["first step", "mid-step", "between steps", "new epoch", "mid-step of the second epoch"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    micro_batch: int,
    saved: int | None,
    sparse: Path,
    dense: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "tuned"
    run_until(micro_batch, monkeypatch, sparse, output, dense)
    assert not output.exists()
    checkpoints = [path.name for path in (tmp_path / "tuned.work").glob("checkpoint-*")]
    assert checkpoints == ([f"checkpoint-{saved}"] if saved else [])
    torch.manual_seed(999)  # nothing of the process's own state may matter
    run(sparse, output, dense)
    assert same(uninterrupted, output)
    lines = [json.loads(line)["step"] for line in (output / "tune-log.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 9))


def test_ctrl_c_ends_after_its_step_with_a_checkpoint(
    sparse: Path, dense: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 10:  # of four in a step
            signal.raise_signal(signal.SIGINT)
        return original(self, *args)

    rarely = SETTINGS.model_copy(update={"save_every": 50})
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(SparseTrainer, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, tmp_path / "tuned", dense, rarely)
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in (tmp_path / "tuned.work").glob("checkpoint-*")] == ["checkpoint-3"]
    run(sparse, tmp_path / "tuned", dense, rarely)
    assert same(uninterrupted, tmp_path / "tuned")


def test_a_second_ctrl_c_ends_at_once(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(SparseTrainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(sparse, tmp_path / "tuned", dense)
    assert not (tmp_path / "tuned.work").exists()


def test_weights_that_transformers_renames_are_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pythia's head is `embed_out` in its files and `lm_head` in the model."""
    write_tiny_checkpoint(tmp_path / "neox")
    vocabulary = json.loads((tmp_path / "neox" / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, tie_word_embeddings=False, **sizes))
    state = {name.replace("lm_head", "embed_out"): weight for name, weight in model.state_dict().items()}
    model.config.save_pretrained(tmp_path / "neox")
    save_file(state, tmp_path / "neox" / "model.safetensors", {"format": "pt"})
    settings = SETTINGS.model_copy(update={"max_steps": 3, "losses": Losses()})
    run(tmp_path / "neox", tmp_path / "straight", tmp_path / "neox", settings)
    run_until(9, monkeypatch, tmp_path / "neox", tmp_path / "resumed", tmp_path / "neox", settings)
    shutil.copytree(tmp_path / "resumed.work", tmp_path / "older.work")
    run(tmp_path / "neox", tmp_path / "resumed", tmp_path / "neox", settings)
    expected, found = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert expected.keys() == found.keys() == state.keys()  # as the model came
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    older = tmp_path / "older.work" / "checkpoint-2" / "model.safetensors"
    save_file({name.replace("lm_head", "embed_out"): w for name, w in load_file(older).items()}, older)
    with pytest.raises(CutworkError, match=r"older.work has no weight 'lm_head\.weight'"):
        run(tmp_path / "neox", tmp_path / "older", tmp_path / "neox", settings)


@pytest.mark.parametrize("steps", [2, 3], ids=["within an epoch", "at its end"])
def test_killed_after_its_last_step_a_run_takes_no_other(
    steps: int, sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": steps, "schedule": "constant"})
    run(sparse, tmp_path / "straight", dense, settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cutwork.tune.tune.output_directory", Mock(side_effect=KeyboardInterrupt))
        run(sparse, tmp_path / "resumed", dense, settings)
    assert run(sparse, tmp_path / "resumed", dense, settings)["steps"] == steps
    assert same(tmp_path / "straight", tmp_path / "resumed")
    assert [line["step"] for line in read_log(tmp_path / "resumed" / "tune-log.jsonl")] == [*range(1, steps + 1)]


LORA = SETTINGS.model_copy(update={"lora": LoraSettings(rank=4, targets=("*_proj",)), "learning_rate": 1e-2})


def test_adapters_resume_and_end_as_a_plain_checkpoint(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(sparse, tmp_path / "straight", dense, LORA)
    run_until(11, monkeypatch, sparse, tmp_path / "resumed", dense, LORA)
    run(sparse, tmp_path / "resumed", dense, LORA)
    before, straight, resumed = weights(sparse), weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert straight.keys() == before.keys()
    for name, weight in before.items():
        assert torch.equal(straight[name], resumed[name]), name
        assert torch.equal(straight[name], weight) is ("proj" not in name), name
        if "proj" in name:
            assert (straight[name][weight == 0] == 0).all()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "straight")
    assert report["sparsity"] == sparsity(model)


@every_pattern
@pytest.mark.parametrize("settings", [SETTINGS, LORA], ids=["full", "LoRA"])
def test_every_pattern_is_resumed_whole(
    settings: TuneSettings, pattern: Pattern, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse = shutil.copytree(dense, tmp_path / "sparse")
    cut_to(load_model(dense, torch.float32), pattern).save_pretrained(sparse)
    short = settings.model_copy(update={"max_steps": 2, "losses": Losses()})
    run(sparse, tmp_path / "straight", dense, short)
    run_until(7, monkeypatch, sparse, tmp_path / "resumed", dense, short)
    run(sparse, tmp_path / "resumed", dense, short)
    assert same(tmp_path / "straight", tmp_path / "resumed")
    before, after = weights(sparse), weights(tmp_path / "resumed")
    for name in (name for name in before if "proj" in name):
        assert not after[name][before[name] == 0].any(), name
        assert not torch.equal(after[name], before[name]) and holds(pattern, after[name]), name


def test_checkpoints_in_shards_are_gone_on_with_in_shards(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 2})
    run_until(5, monkeypatch, sparse, tmp_path / "tuned", dense, settings)
    note = tmp_path / "tuned.work" / "run.json"
    said = json.loads(note.read_text())
    note.write_text(json.dumps(said | {"sharded": True}))
    with pytest.raises(CutworkError, match=r"was begun with FSDP .*; go on with it"):
        run(sparse, tmp_path / "tuned", dense, settings)
    assert said.pop("sharded") is False
    note.write_text(json.dumps(said))  # as of a run that was begun before it was noted
    assert run(sparse, tmp_path / "tuned", dense, settings)["steps"] == 2


@pytest.mark.parametrize(
    "reason", ["[enforce fail at inline_container.cc:672] . unexpected pos", os.strerror(errno.ENOSPC)]
)
def test_a_checkpoint_without_room_is_one_sentence_and_training_goes_on_later(
    reason: str, sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, saved = SETTINGS.model_copy(update={"max_steps": 2}), Trainer._save_checkpoint

    def save(self: Trainer, *args: Any) -> None:
        saved(self, *args)
        if self.state.global_step == 2:
            (Path(self.args.output_dir) / "checkpoint-2" / "trainer_state.json").unlink()
            raise RuntimeError(reason)

    with monkeypatch.context() as patch, pytest.raises(CutworkError, match="checkpoint-2 could not be written"):
        patch.setattr(Trainer, "_save_checkpoint", save)
        run(sparse, tmp_path / "resumed", dense, settings)
    run(sparse, tmp_path / "resumed", dense, settings)
    run(sparse, tmp_path / "straight", dense, settings)
    assert same(tmp_path / "straight", tmp_path / "resumed")


def cut_off_log(work: Path) -> None:
    log = work / "tune-log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])


def cut_off_checkpoint(work: Path) -> None:
    broken = work / "checkpoint-3"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    (broken / "trainer_state.json").write_text('{"global_step": 3, "log_hi')


def cut_off_weights(work: Path) -> None:
    """As after a power failure, where the disk had got the state and not all of the weights."""
    broken = shutil.copytree(work / "checkpoint-2", work / "checkpoint-3")
    os.truncate(broken / "model.safetensors", (broken / "model.safetensors").stat().st_size // 2)


@pytest.mark.parametrize(
    ("cut_off", "logged"),
    [
        (cut_off_log, [1, *range(3, 9)]),
        (cut_off_checkpoint, list(range(1, 9))),
        (cut_off_weights, list(range(1, 9))),
    ],
)
def test_what_was_cut_off_while_written_is_passed_over(
    cut_off: Callable[[Path], None],
    logged: list[int],
    sparse: Path,
    dense: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "tuned"
    run_until(9, monkeypatch, sparse, output, dense)
    cut_off(tmp_path / "tuned.work")
    run(sparse, output, dense)
    assert same(uninterrupted, output)
    steps = [line["step"] for line in read_log(output / "tune-log.jsonl")]
    assert steps in (list(range(1, 9)), logged)  # but for the line that was lost


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_that_cannot_be_read_is_one_sentence(
    file: str, sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(9, monkeypatch, sparse, tmp_path / "tuned", dense)
    os.truncate(tmp_path / "tuned.work" / "checkpoint-2" / file, 100)
    with pytest.raises(CutworkError, match=r"checkpoint-2 cannot be read \(.*\); remove it, and training goes on"):
        run(sparse, tmp_path / "tuned", dense)


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(path: Path) -> None:
        others = sorted(other.name for other in path.parent.glob("checkpoint-*") if other != path)
        synced.append((path.name, (path / "trainer_state.json").exists(), others))

    monkeypatch.setattr("cutwork.tune.resumable_trainer.sync", sync)
    run_until(9, monkeypatch, sparse, tmp_path / "tuned", dense)
    first, second = "checkpoint-1", "checkpoint-2"
    assert synced == [(first, False, []), (first, True, []), (second, False, [first]), (second, True, [first])]
    assert [path.name for path in (tmp_path / "tuned.work").glob("checkpoint-*")] == [second]


def check_same(before: TuneSettings, now: TuneSettings) -> None:
    found, run = ({"settings": settings.model_dump(mode="json")} for settings in (before, now))
    _check_same({"run": found}, run, "this was made", "choose another")


def test_finished_is_not_repeated_and_other_settings_are_refused(
    uninterrupted: Path, sparse: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tune_module, "load_student", lambda *_: pytest.fail("trained again"))
        assert run(sparse, uninterrupted, dense)["steps"] == 8
    with pytest.raises(CutworkError, match=r"learning_rate \(0\.003, now 0\.001\)"):
        run(sparse, uninterrupted, dense, SETTINGS.model_copy(update={"learning_rate": 1e-3}))
    later, told = SETTINGS.model_copy(update={"keep_best": True}), r"another keep_best \({}, now {}\)"
    with pytest.raises(CutworkError, match=told.format("unset", True)):  # at their default they are not noted
        check_same(SETTINGS, later)
    with pytest.raises(CutworkError, match=told.format(True, "unset")):
        check_same(later, SETTINGS)


def test_an_unfinished_run_with_other_settings_is_refused_until_overwritten(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tuned"
    run_until(5, monkeypatch, sparse, output, dense)
    short = SETTINGS.model_copy(update={"max_steps": 1})
    with pytest.raises(CutworkError, match=r"unfinished run with another max_steps \(8, now 1\)"):
        run(sparse, output, dense, short)
    assert run(sparse, output, dense, short, overwrite=True)["steps"] == 1
    assert run(sparse, output, dense, SETTINGS.model_copy(update={"max_steps": 2}), overwrite=True)["steps"] == 2


def test_a_model_made_again_is_the_same(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the seconds in its report differ."""
    model = tmp_path / "sparse"
    shutil.copytree(sparse, model)
    (model / "prune-report.json").write_text('{"seconds": 1}')
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_finalize_training", Mock(side_effect=KeyboardInterrupt))
        run(model, tmp_path / "tuned", dense, settings)
    (model / "prune-report.json").write_text('{"seconds": 2}')
    run(model, tmp_path / "tuned", dense, settings)
    shutil.copyfile(dense / "model.safetensors", model / "model.safetensors")
    with pytest.raises(CutworkError, match="made with another model"):
        run(model, tmp_path / "tuned", dense, settings)
