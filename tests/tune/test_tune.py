"""`tune` from directory to directory: resuming bit for bit, diverging cleanly, keeping every zero."""

import errno
import inspect
import json
import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from cutwork.errors import CutworkError
from cutwork.recipe import LoraSettings, Losses, TuneSettings
from cutwork.store.lock import only_process
from cutwork.torch_models.load import load_model
from cutwork.tune import trainer as trainer_module
from cutwork.tune import tune as tune_module
from cutwork.tune.arguments import training_arguments
from cutwork.tune.console import read_log
from cutwork.tune.masks import LostZerosError, sparsity
from cutwork.tune.resume import remove
from cutwork.tune.student_and_teacher import load_student, load_teacher
from cutwork.tune.trainer import SparseTrainer
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, sums, weights

QUIET = Console(quiet=True)
# 20 samples in steps of 8 (4 micro-batches of 2): an epoch has 3 steps, the last of 2 micro-batches.
SETTINGS = TuneSettings(
    max_steps=8,
    batch_size=8,
    micro_batch_size=2,
    save_every=1,
    warmup_steps=2,
    learning_rate=3e-3,
    dtype="float32",
    losses=Losses(squarehead=1.0, kl=0.5),
)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense", seed=0)


@pytest.fixture(scope="module")
def sparse(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "sparse"
    torch.manual_seed(0)
    shutil.copytree(dense, directory)
    cut(load_model(dense, torch.float32), 0.6).save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    (directory / "generation_config.json").write_text('{"temperature": 0.5, "do_sample": false}')
    return directory


def run(sparse: Path, output: Path, dense: Path, settings: TuneSettings = SETTINGS, **options: Any) -> dict[str, Any]:
    return tune(sparse, output, settings, sums(20), teacher_dir=dense, max_length=64, console=QUIET, **options)


@pytest.fixture(scope="module")
def uninterrupted(sparse: Path, dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "tuned"
    run(sparse, output, dense)
    return output


def interrupt_at(monkeypatch: pytest.MonkeyPatch, micro_batch: int) -> None:
    """Raise KeyboardInterrupt in the middle of a run."""
    original, calls = SparseTrainer.training_step, [0]

    def step(self: SparseTrainer, *args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == micro_batch:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(SparseTrainer, "training_step", step)


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
    with monkeypatch.context() as patch:
        interrupt_at(patch, micro_batch)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, output, dense)
    assert not output.exists()
    checkpoints = [path.name for path in (tmp_path / "tuned.work").glob("checkpoint-*")]
    assert checkpoints == ([f"checkpoint-{saved}"] if saved else [])
    torch.manual_seed(999)  # nothing of the process's own state may matter
    run(sparse, output, dense)
    expected, found = weights(uninterrupted), weights(output)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    lines = [json.loads(line)["step"] for line in (output / "tune-log.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 9))


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
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 9)
        run(tmp_path / "neox", tmp_path / "resumed", tmp_path / "neox", settings)
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
    expected, found = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [line["step"] for line in read_log(tmp_path / "resumed" / "tune-log.jsonl")] == [*range(1, steps + 1)]


def test_killed_when_its_output_is_there_the_rest_is_removed(sparse: Path, dense: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 1})
    run(sparse, tmp_path / "tuned", dense, settings)
    (tmp_path / "tuned.work" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "tuned.work" / "run.json").touch()
    (tmp_path / ".tuned.lock").touch()
    run(sparse, tmp_path / "tuned", dense, settings)
    assert os.listdir(tmp_path) == ["tuned"]


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


def test_checkpoints_in_shards_are_gone_on_with_in_shards(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 2})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, 5)
        run(sparse, tmp_path / "tuned", dense, settings)
    note = tmp_path / "tuned.work" / "run.json"
    said = json.loads(note.read_text())
    note.write_text(json.dumps(said | {"sharded": True}))
    with pytest.raises(CutworkError, match=r"was begun with FSDP .*; go on with it"):
        run(sparse, tmp_path / "tuned", dense, settings)
    assert said.pop("sharded") is False
    note.write_text(json.dumps(said))  # as of a run that was begun before it was noted
    assert run(sparse, tmp_path / "tuned", dense, settings)["steps"] == 2


def encoder_decoder(directory: Path, tokenizer: Path, **options: Any) -> Path:
    shutil.copytree(tokenizer, directory)
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    torch.manual_seed(0)
    M2M100ForConditionalGeneration(
        M2M100Config(vocab_size=vocabulary, decoder_start_token_id=2, **{**sizes, **heads, **options})
    ).save_pretrained(directory)
    return directory


def test_no_block_is_left_out_where_all_are_compared(dense: Path, tmp_path: Path) -> None:
    model = encoder_decoder(tmp_path / "model", dense, encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    settings = SETTINGS.model_copy(update={"max_steps": 2})
    assert run(model, tmp_path / "tuned", model, settings)["steps"] == 2
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["encoder_layerdrop"] == 0.5
    assert load_student(model, TuneSettings(), "sdpa").model.encoder.layerdrop == 0.5


def test_squarehead_needs_a_teacher_as_deep(dense: Path, tmp_path: Path) -> None:
    deep = encoder_decoder(tmp_path / "deep", dense)
    shallow = encoder_decoder(tmp_path / "shallow", dense, decoder_layers=1)
    with pytest.raises(CutworkError, match=r"deep has other stacks of blocks \(\[2, 3\], the student \[2, 1\]"):
        run(shallow, tmp_path / "tuned", deep)
    answers = SETTINGS.model_copy(update={"max_steps": 1, "losses": Losses(kl=1.0)})
    assert run(shallow, tmp_path / "tuned", deep, answers)["steps"] == 1


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
    expected, found = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_log_that_was_cut_off_does_not_keep_it_from_going_on(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, tmp_path / "tuned", dense)
    log = tmp_path / "tuned.work" / "tune-log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    run(sparse, tmp_path / "tuned", dense)
    steps = [line["step"] for line in read_log(tmp_path / "tuned" / "tune-log.jsonl")]
    assert steps in (list(range(1, 9)), [1, *range(3, 9)])  # but for the line that was lost


def test_one_process_at_a_time(sparse: Path, dense: Path, tmp_path: Path) -> None:
    with only_process(tmp_path / ".tuned.lock", "taken"):
        with pytest.raises(CutworkError, match="another process is fine-tuning into"):
            run(sparse, tmp_path / "tuned", dense)
        with pytest.raises(CutworkError, match="taken"), only_process(tmp_path / ".tuned.lock", "taken"):
            raise AssertionError
    assert not list(tmp_path.iterdir())


LORA = SETTINGS.model_copy(update={"lora": LoraSettings(rank=4, targets=("*_proj",)), "learning_rate": 1e-2})


def test_adapters_resume_and_end_as_a_plain_checkpoint(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(sparse, tmp_path / "straight", dense, LORA)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 11)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, tmp_path / "resumed", dense, LORA)
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


def test_a_checkpoint_cut_off_while_written_is_passed_over(
    sparse: Path, dense: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tuned"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, output, dense)
    broken = tmp_path / "tuned.work" / "checkpoint-3"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    (broken / "trainer_state.json").write_text('{"global_step": 3, "log_hi')
    run(sparse, output, dense)
    expected, found = weights(uninterrupted), weights(output)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_finished_is_not_repeated_and_other_settings_are_refused(
    uninterrupted: Path, sparse: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(tune_module, "load_student", lambda *_: pytest.fail("trained again"))
        assert run(sparse, uninterrupted, dense)["steps"] == 8
    with pytest.raises(CutworkError, match=r"learning_rate \(0\.003, now 0\.001\)"):
        run(sparse, uninterrupted, dense, SETTINGS.model_copy(update={"learning_rate": 1e-3}))


def test_an_unfinished_run_with_other_settings_is_refused_until_overwritten(
    sparse: Path, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "tuned"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            run(sparse, output, dense)
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


def test_dense_fine_tuning_learns(dense: Path, tmp_path: Path) -> None:
    settings = TuneSettings(max_steps=30, batch_size=10, micro_batch_size=10, learning_rate=1e-2, warmup_steps=2)
    report = tune(dense, tmp_path / "tuned", settings, sums(20), console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "tune-log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert max(report["sparsity"].values()) < 0.01


def test_no_number_of_steps_means_whole_epochs(dense: Path, tmp_path: Path) -> None:
    report = tune(dense, tmp_path / "tuned", TuneSettings(max_steps=0, batch_size=8), sums(20), console=QUIET)
    assert report["steps"] == 3


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


@pytest.mark.parametrize(
    ("asked", "bfloat16", "dtype"),
    [
        ("auto", False, "float32"),
        ("auto", True, "bfloat16"),
        ("bfloat16", False, "bfloat16"),
        ("float32", True, "float32"),
    ],
)
def test_the_teacher_is_kept_in_what_is_asked(dense: Path, asked: Any, bfloat16: bool, dtype: str) -> None:
    settings = SETTINGS.model_copy(update={"teacher_dtype": asked})
    student = load_student(dense, settings, "eager")
    teacher = load_teacher(dense, settings, bfloat16, "eager", student, torch.device("cpu"))
    assert {parameter.dtype for parameter in teacher.parameters()} == {getattr(torch, dtype)}


def test_a_process_has_one_gpu_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def see_four(arguments: TrainingArguments) -> torch.device:
        arguments._n_gpu = 4
        return torch.device("cpu")

    monkeypatch.setattr(TrainingArguments, "_setup_devices", property(see_four))
    settings = TuneSettings(batch_size=32, micro_batch_size=8)
    found = training_arguments(tmp_path, settings, fsdp=False, validates=False)
    assert found.train_batch_size * found.gradient_accumulation_steps == 32


def test_only_the_recipe_says_what_is_computed_in(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(CutworkError, match="launch with --mixed_precision no"):
        tune(sparse, tmp_path / "a", TuneSettings(max_steps=1), sums(4), console=QUIET)


def test_a_missing_or_foreign_teacher_is_refused(sparse: Path, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="--teacher"):
        tune(sparse, tmp_path / "a", SETTINGS, sums(4), console=QUIET)
    with pytest.raises(CutworkError, match="no training samples"):
        tune(sparse, tmp_path / "b", TuneSettings(), [], console=QUIET)
    other = write_tiny_checkpoint(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(CutworkError, match=r"another num_hidden_layers \(1, the student 2\)"):
        run(sparse, tmp_path / "c", other)
    for output in (other, tmp_path):
        with pytest.raises(CutworkError, match="holds the model to read"):
            tune(sparse, output, SETTINGS, sums(4), teacher_dir=other, overwrite=True, console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


HOOKS = [name for name, value in vars(SparseTrainer).items() if inspect.isfunction(value) and hasattr(Trainer, name)]


def test_transformers_calls_every_hook_that_is_overridden(
    monkeypatch: pytest.MonkeyPatch, sparse: Path, dense: Path, tmp_path: Path
) -> None:
    called = set()

    def noted(name: str, original: Any) -> Any:
        return lambda *args, **kwargs: (called.add(name), original(*args, **kwargs))[1]

    for name in HOOKS:
        monkeypatch.setattr(SparseTrainer, name, noted(name, getattr(SparseTrainer, name)))
    run(sparse, tmp_path / "tuned", dense, SETTINGS.model_copy(update={"keep_best": True}), validation=sums(4))
    assert called == set(HOOKS) >= trainer_module._HOOKS | {"_save_checkpoint", "log", "train"}


@pytest.mark.parametrize("hook", sorted(trainer_module._HOOKS - {"get_batch_samples", "compute_loss"}))
def test_a_hook_that_transformers_does_not_call_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, hook: str, sparse: Path, tmp_path: Path
) -> None:
    """As if it had been renamed: transformers' own method is what runs."""
    monkeypatch.delattr(SparseTrainer, hook)
    settings = SETTINGS.model_copy(update={"losses": Losses()})
    with pytest.raises(CutworkError, match=f"trains without calling {hook}, so"):
        run(sparse, tmp_path / "tuned", sparse, settings)
    assert not (tmp_path / "tuned").exists()


def test_a_short_training_reaches_its_learning_rate(sparse: Path, dense: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 4, "warmup_steps": 20, "losses": Losses()})
    run(sparse, tmp_path / "out", dense, settings)
    lines = (tmp_path / "out" / "tune-log.jsonl").read_text().splitlines()
    rates = [found["learning_rate"] for found in map(json.loads, lines) if "loss" in found]
    assert max(rates) == settings.learning_rate
