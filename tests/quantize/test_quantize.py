"""`quantize` from directory to directory, and back through transformers."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from cutwork import checkpoint
from cutwork.errors import CutworkError
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QuantizeSettings
from cutwork.train.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.train.tiny import cut, gpt2, sums, weights

QUIET = Console(quiet=True)
FEW = QuantizeSettings(calibration_samples=16)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse")
    model = load_model(directory, torch.float32)
    torch.manual_seed(0)
    cut(model, 0.6).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=["gptq", "rtn"])
def quantized(request: pytest.FixtureRequest, sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / request.param
    settings = FEW.model_copy(update={"method": request.param})
    quantize(sparse, output, settings, sums(20), console=QUIET)
    return output


def test_files_are_int_quantized_with_every_zero_in_place(quantized: Path, sparse: Path) -> None:
    assert checkpoint.kind(quantized) == "quantized"
    before, after = weights(sparse), weights(quantized)
    for name, weight in before.items():
        if "proj" not in name:
            assert torch.equal(after[name], weight)
            continue
        codes, scale = after[name], after[name.replace(".weight", ".weight_scale")]
        assert codes.dtype == torch.int8
        assert scale.shape == (weight.shape[0], 1)
        assert not codes[weight == 0].any()
        assert (codes != 0).sum() > 0.97 * (weight != 0).sum()
        assert ((codes * scale - weight).norm() / weight.norm()) < 0.03
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    assert config["format"] == "int-quantized"
    assert "sparsity_config" not in config
    assert config["ignore"] == ["lm_head"]


def test_transformers_loads_it_with_every_zero_in_place(quantized: Path, sparse: Path) -> None:
    pytest.importorskip("compressed_tensors")
    before, files = weights(sparse), weights(quantized)
    model, dense = (AutoModelForCausalLM.from_pretrained(path) for path in (quantized, sparse))
    ids = torch.tensor([list(b"12+3=15 #### 15" * 2)])
    with torch.no_grad():
        logits, expected = model(ids).logits, dense(ids).logits
    assert ((logits - expected).norm() / expected.norm()) < 0.05
    for name, weight in before.items():
        if "proj" not in name:
            continue
        # Loaded as codes, or already expanded by the forward pass.
        loaded = model.get_parameter(name)
        scale = files[name.replace(".weight", ".weight_scale")]
        values = loaded * scale if loaded.dtype == torch.int8 else loaded
        assert torch.equal(values == 0, files[name] == 0), name
        assert not values[weight == 0].any()
        assert torch.equal(values.float(), files[name] * scale), name


def test_report_says_what_each_layer_lost(quantized: Path) -> None:
    report = json.loads((quantized / "quantize-report.json").read_text())
    for layer in report["layers"]:
        assert 0 <= layer["sparsity"] - layer["sparsity_before"] < 0.02
        if report["settings"]["method"] == "gptq":
            assert layer["output_error"] <= layer["output_error_of_rounding"] < 0.01


def test_ignored_modules_stay_as_they_are(sparse: Path, tmp_path: Path) -> None:
    settings = QuantizeSettings(method="rtn", ignore=("*.down_proj", "model.layers.0.*"))
    quantize(sparse, tmp_path / "out", settings, console=QUIET)
    before, after = weights(sparse), weights(tmp_path / "out")
    kept = {name for name in before if after[name].dtype != torch.int8 and "proj" in name}
    assert kept == {name for name in before if "proj" in name and ("down_proj" in name or "layers.0." in name)}
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert {f"{name}.weight" for name in ignored} == kept | {"lm_head.weight"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_bad_input_is_one_sentence(sparse: Path, quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="nothing is left to quantise"):
        quantize(sparse, tmp_path / "out", QuantizeSettings(ignore=("*",)), sums(4), console=QUIET)
    with pytest.raises(CutworkError, match="is a quantized model"):
        quantize(quantized, tmp_path / "out", FEW, sums(4), console=QUIET)
    gpt2().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(CutworkError, match="Conv1D"):
        quantize(tmp_path / "gpt2", tmp_path / "out", QuantizeSettings(method="rtn"), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]
