"""Quantisation-aware fine-tuning: what was trained is what is written, and it learns to live with the rounding."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from transformers import AutoModelForCausalLM

from cutwork.errors import CutworkError
from cutwork.quantize.grid import Grid
from cutwork.quantize.qat import Rounded, round_activations
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QAT, Losses, QuantizeSettings
from cutwork.torch_models.data import collate, examples
from cutwork.torch_models.load import load_model, load_tokenizer
from tests.quantize.test_quantize import stored
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import PATTERNS, cut_to, holds, sums, weights

QUIET = Console(quiet=True)
TRAINED = QAT.model_copy(
    update={"max_steps": 12, "batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 2, "losses": Losses(ce=1.0)}
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one model for each pattern."""
    directory = tmp_path_factory.mktemp("models")
    for name, pattern in PATTERNS.items():
        write_tiny_checkpoint(directory / name)
        cut_to(load_model(directory / name, torch.float32), pattern).save_pretrained(directory / name)
    return directory


@pytest.fixture(scope="module")
def sparse(models: Path) -> Path:
    return models / "60%"


def test_rounding_keeps_zeros_and_passes_gradients() -> None:
    weight = torch.randn(6, 64)
    weight[torch.rand(6, 64) < 0.5] = 0
    grid = Grid(4, 32)
    rounded = Rounded(grid, grid.scales(weight))
    leaf = weight.clone().requires_grad_()
    seen = rounded(leaf)
    torch.testing.assert_close(seen, grid.nearest(weight, grid.scales(weight)).weight(), rtol=0, atol=1e-6)
    assert not seen[weight == 0].any()
    (seen * torch.arange(64)).sum().backward()
    assert torch.equal(leaf.grad, torch.arange(64).expand(6, 64))


def test_activations_are_rounded_per_token() -> None:
    x = torch.tensor([[127.0, 0.4, -3.6], [0.0, 0.0, 0.0], [1.27, 0.004, -0.036]])
    [seen] = round_activations(torch.nn.Identity(), (x,))
    expected = torch.tensor([[127.0, 0.0, -4.0], [0.0, 0.0, 0.0], [1.27, 0.0, -0.04]])
    torch.testing.assert_close(seen, expected)


def test_activations_in_bfloat16_have_the_codes_of_float32() -> None:
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
    [seen], [exact] = (round_activations(torch.nn.Identity(), (each,)) for each in (x, x.float()))
    assert seen.dtype == torch.bfloat16 and torch.equal(seen, exact.bfloat16())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("scheme,dtype", [("w8a8", "float32"), ("w4a16", "float32"), ("w4a16", "bfloat16")])
def test_it_learns_keeps_zeros_and_writes_what_it_trained(
    models: Path, tmp_path: Path, scheme: str, dtype: str, pattern: str
) -> None:
    sparse = models / pattern
    groups = {"group_size": 32} if scheme == "w4a16" else {}
    training = TRAINED.model_copy(update={"dtype": dtype})
    settings = QuantizeSettings.model_validate({"scheme": scheme, "method": "qat", "qat": training, **groups})
    report = quantize(sparse, tmp_path / "out", settings, sums(64), console=QUIET)
    assert report["training"]["steps"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    linears = {name: weight for name, weight in weights(sparse).items() if "proj" in name}
    for name, before in linears.items():
        after = stored(tmp_path / "out", name)
        assert after is not None and after.any() and not after[before == 0].any(), name
        assert holds(PATTERNS[pattern], after), name
    assert all(layer["sparsity"] >= layer["sparsity_before"] for layer in report["layers"])
    pytest.importorskip("compressed_tensors")
    tokenizer, losses = load_tokenizer(sparse), {}
    batch = collate(examples(tokenizer, sums(64), 64))
    quantize(sparse, tmp_path / "rtn", settings.model_copy(update={"method": "rtn"}), console=QUIET)
    for name in ("out", "rtn"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        with torch.no_grad():
            losses[name] = model(**batch).loss.item()
    assert losses["out"] < losses["rtn"]


def test_only_its_own_work_is_removed(sparse: Path, tmp_path: Path) -> None:
    run = tmp_path / "out.work" / "run.json"
    run.parent.mkdir()
    run.write_text("{}")  # of an interrupted `tune`
    quantize(sparse, tmp_path / "out", QuantizeSettings(method="rtn"), overwrite=True, console=QUIET)
    learned = QuantizeSettings(method="qat", qat=TRAINED)
    with pytest.raises(CutworkError, match=r"out\.work is not from quantize --method qat; move it away"):
        quantize(sparse, tmp_path / "out", learned, sums(64), overwrite=True, console=QUIET)
    assert run.is_file()


def test_an_interrupted_training_goes_on(sparse: Path, tmp_path: Path) -> None:
    settings = QuantizeSettings(method="qat", qat=TRAINED)
    with pytest.raises(CutworkError, match="lower learning_rate"):
        worse = TRAINED.model_copy(update={"learning_rate": 1e30, "save_every": 1})
        quantize(sparse, tmp_path / "out", settings.model_copy(update={"qat": worse}), sums(64), console=QUIET)
    assert not (tmp_path / "out").exists()
    quantize(sparse, tmp_path / "out", settings, sums(64), overwrite=True, console=QUIET)
    assert json.loads((tmp_path / "out" / "quantize-report.json").read_text())["settings"]["method"] == "qat"


@pytest.mark.parametrize(
    "bad",
    [
        {"smoothing": 0.5},
        {"sparsity": 0.5},
        *(
            {"qat": each}
            for each in ({"keep_zeros": False}, {"dtype": "bfloat16"}, {"keep_best": True}, {"patience": 2})
        ),
        {"scheme": "w4a16", "overrides": {"*down_proj": "w8a8"}, "qat": {"dtype": "bfloat16"}},
    ],
)
def test_what_does_not_go_together_is_refused(bad: dict) -> None:
    with pytest.raises(ValidationError, match="qat"):
        QuantizeSettings(method="qat", **bad)
