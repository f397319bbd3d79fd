"""Who may teach a student, and how the two are loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import M2M100Config, M2M100ForConditionalGeneration

from cutwork.errors import CutworkError
from cutwork.recipe import Losses, TuneSettings
from cutwork.tune.student_and_teacher import load_student, load_teacher
from cutwork.tune.tune import tune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import sums
from tests.tune.runs import QUIET, SETTINGS, run


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
    student = load_student(dense, settings, "eager", 1)
    teacher = load_teacher(dense, settings, bfloat16, "eager", student, torch.device("cpu"))
    assert {parameter.dtype for parameter in teacher.parameters()} == {getattr(torch, dtype)}


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


def test_no_block_is_left_out_where_all_are_needed(dense: Path, tmp_path: Path) -> None:
    model = encoder_decoder(tmp_path / "model", dense, encoder_layerdrop=0.5, decoder_layerdrop=0.5)
    settings = SETTINGS.model_copy(update={"max_steps": 2})
    assert run(model, tmp_path / "tuned", model, settings)["steps"] == 2
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["encoder_layerdrop"] == 0.5
    alone, one_of_two = (load_student(model, TuneSettings(), "sdpa", processes).model for processes in (1, 2))
    assert alone.encoder.layerdrop == alone.decoder.layerdrop == 0.5
    assert one_of_two.encoder.layerdrop == one_of_two.decoder.layerdrop == 0  # DDP waits for every gradient
    assert tune(model, tmp_path / "no", TuneSettings(), sums(4), dry_run=True, console=QUIET)["estimate"]


def test_squarehead_needs_a_teacher_as_deep(dense: Path, tmp_path: Path) -> None:
    deep = encoder_decoder(tmp_path / "deep", dense)
    shallow = encoder_decoder(tmp_path / "shallow", dense, decoder_layers=1)
    with pytest.raises(CutworkError, match=r"deep has other stacks of blocks \(\[2, 3\], the student \[2, 1\]"):
        run(shallow, tmp_path / "tuned", deep)
    answers = SETTINGS.model_copy(update={"max_steps": 1, "losses": Losses(kl=1.0)})
    assert run(shallow, tmp_path / "tuned", deep, answers)["steps"] == 1
