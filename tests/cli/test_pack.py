import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from cutwork.cli.pack import pack as command
from cutwork.errors import CutworkError
from tests.pack.models import assert_same_tensors, plain_tensors, write_checkpoint

app = Typer()
app.command()(command)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    if isinstance(result.exception, CutworkError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_pack_and_restore(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors())
    text = run(source, tmp_path / "packed")
    assert "layers.0.mlp.up_proj" in text and "bitmask f32" in text and "where dense takes" in text
    run("--restore", tmp_path / "packed", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")


def test_json_tells_every_weight(tmp_path: Path) -> None:
    report = json.loads(run("--json", write_checkpoint(tmp_path / "source", plain_tensors()), tmp_path / "packed"))
    assert report["bytes"] < report["dense_bytes"] and report["sparsity"] == pytest.approx(0.75, abs=0.05)
    by_name = {weight["name"]: weight for weight in report["weights"]}
    assert by_name["model.layers.0.mlp.up_proj.weight"]["encoding"] == "bitmask"
    assert sum(weight["nbytes"] for weight in report["weights"]) == report["bytes"]


def test_wrong_ways_to_call_it(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors())
    run(source, tmp_path / "packed")
    for arguments, problem in [
        ((source, tmp_path / "packed"), "already exists"),
        ((tmp_path / "packed", tmp_path / "again"), "packed already"),
        (("--restore", source, tmp_path / "again"), "not packed"),
        ((tmp_path / "gone", tmp_path / "again"), "no model directory"),
    ]:
        with pytest.raises(CutworkError, match=problem):
            run(*arguments)
    assert not (tmp_path / "again").exists()
    run("--overwrite", source, tmp_path / "packed")
    for taken in (source, tmp_path):
        with pytest.raises(CutworkError, match="holds the model to read"):
            run("--overwrite", source, taken)


def test_a_model_without_zeros_is_told_so(tmp_path: Path) -> None:
    text = run(write_checkpoint(tmp_path / "source", plain_tensors(zeros=0.0)), tmp_path / "packed")
    assert "prune the model" in text


def test_a_head_of_floats_beside_integers_is_told(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    quantized = pytest.importorskip("tests.pack.test_quantized").quantized
    source, _ = quantized(tmp_path / "source", "int-quantized", torch.bfloat16)
    assert "every token reads the output head in bf16" in run(source, tmp_path / "packed")
    assert "output head" not in run(source, tmp_path / "again", "--head", "i8")
    assert "output head" not in run(write_checkpoint(tmp_path / "plain", plain_tensors()), tmp_path / "floats")
