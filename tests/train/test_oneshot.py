"""`prune` from directory to directory."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from cutwork.errors import CutworkError
from cutwork.recipe import PruneSettings
from cutwork.train.data import examples
from cutwork.train.load import load_tokenizer
from cutwork.train.masks import sparsity
from cutwork.train.oneshot import prune
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.train.tiny import opt, sums, weights

QUIET = Console(quiet=True)
FEW = PruneSettings(sparsity=0.6, calibration_samples=16)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "dense")


@pytest.mark.parametrize("method", ["sparsegpt", "magnitude"])
def test_result_is_a_plain_checkpoint_with_the_zeros_asked_for(method: str, dense: Path, tmp_path: Path) -> None:
    settings = FEW.model_copy(update={"method": method})
    report = prune(dense, tmp_path / "out", settings, sums(20), console=QUIET)
    before, after = weights(dense), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in after.items():
        if "proj" in name:
            assert int((weight == 0).sum()) == round(0.6 * weight.numel()), name
        else:
            assert torch.equal(weight, before[name])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {layer["name"]: layer["sparsity"] for layer in report["layers"]} == pytest.approx(sparsity(model))
    assert report == json.loads((tmp_path / "out" / "prune-report.json").read_text())
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    error = "output_error" if method == "sparsegpt" else "weight_error"
    assert all(0 < layer[error] < 1 and layer["seconds"] >= 0 for layer in report["layers"])


def test_sparsegpt_harms_the_output_less_than_magnitude(dense: Path, tmp_path: Path) -> None:
    prune(dense, tmp_path / "a", FEW, sums(20), console=QUIET)
    prune(dense, tmp_path / "b", FEW.model_copy(update={"method": "magnitude"}), console=QUIET)
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (dense, tmp_path / "a", tmp_path / "b")]
    error = torch.zeros(2)
    for example in examples(load_tokenizer(dense), sums(20), 64):
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            exact, best, plain = (m(ids, output_hidden_states=True).hidden_states[-1] for m in models)
        error += torch.stack([(best - exact).square().sum(), (plain - exact).square().sum()])
    assert error[0] < 0.8 * error[1]


def test_pruning_again_keeps_all_zeros(dense: Path, tmp_path: Path) -> None:
    prune(dense, tmp_path / "a", FEW.model_copy(update={"sparsity": 0.3}), sums(20), console=QUIET)
    prune(tmp_path / "a", tmp_path / "b", FEW, sums(20), console=QUIET)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, weight in first.items():
        if "proj" in name:
            assert (second[name][weight == 0] == 0).all()
            assert int((second[name] == 0).sum()) == round(0.6 * weight.numel())


def test_the_checkpoints_dtype_and_family_do_not_matter(dense: Path, tmp_path: Path) -> None:
    directory = tmp_path / "opt"
    model = opt().to(torch.bfloat16)
    model.resize_token_embeddings(300)
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((dense / name).read_bytes())
    prune(directory, tmp_path / "out", FEW, sums(20), console=QUIET)
    after = weights(tmp_path / "out")
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    fc1 = after["model.decoder.layers.1.fc1.weight"]
    assert int((fc1 == 0).sum()) == round(0.6 * fc1.numel())


def test_a_layer_that_cannot_be_pruned_is_named_and_nothing_is_left(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutwork.train.obs.torch.isfinite", lambda x: torch.zeros_like(x, dtype=torch.bool))
    with pytest.raises(CutworkError, match=r"model\.layers\.0\.self_attn\.q_proj, .*not finite"):
        prune(dense, tmp_path / "out", FEW, sums(20), console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_sentence(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="needs samples"):
        prune(dense, tmp_path / "out", FEW, [], console=QUIET)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(CutworkError, match="already exists"):
        prune(dense, tmp_path / "taken", FEW, sums(4), console=QUIET)
    with pytest.raises(CutworkError, match="no model directory"):
        prune(tmp_path / "nowhere", tmp_path / "out", FEW, sums(4), console=QUIET)
