"""`quantize` from directory to directory, and back through transformers."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    NomicBertConfig,
    NomicBertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.pack.decode import decode
from cutwork.pack.in_memory import pack_in_memory
from cutwork.pack.int4 import dequantize
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.quantize.schemes import choose, kept
from cutwork.recipe import QAT, PruneSettings, QuantizeSettings
from cutwork.store.directory import kind_of
from cutwork.tasks.task import Sample
from cutwork.torch_models.load import load_model
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import cut, mixture, sums, weights

QUIET = Console(quiet=True)
FEW = QuantizeSettings(calibration_samples=16)
SHORT = QAT.model_copy(update={"max_steps": 3, "batch_size": 8})


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "sparse")
    model = load_model(directory, torch.float32)
    torch.manual_seed(0)
    cut(model, 0.6).save_pretrained(directory)
    return directory


SETTINGS = {
    "w8a8-gptq": FEW,
    "w8a8-rtn": QuantizeSettings(method="rtn"),
    "w4a16-gptq": QuantizeSettings(scheme="w4a16", group_size=32, calibration_samples=16),
    "w4a16-rtn": QuantizeSettings(scheme="w4a16", method="rtn"),
    "w8a8-qat": QuantizeSettings(method="qat", qat=SHORT),
    "w4a16-qat": QuantizeSettings(scheme="w4a16", method="qat", group_size=32, qat=SHORT),
    "mixed": QuantizeSettings(
        scheme="w4a16",
        method="rtn",
        group_size=96,  # does not divide the columns; 32 does
        overrides={"*.0.mlp.down_proj": "w8a8", "*.1.self_attn.q_proj": "skip"},
    ),
}


@pytest.fixture(scope="module", params=SETTINGS)
def quantized(request: pytest.FixtureRequest, sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / request.param
    quantize(sparse, output, SETTINGS[request.param], sums(20), console=QUIET)
    return output


def stored(directory: Path, name: str) -> torch.Tensor | None:
    """The values float32 [out, in] that a weight's codes stand for, read by hand; None for a plain weight."""
    files = weights(directory)
    if f"{name}_scale" not in files:
        return None
    scale = files[f"{name}_scale"].float()
    codes = files.get(name)
    if codes is None:
        packed, shape = files[f"{name}_packed"], files[f"{name}_shape"].tolist()
        assert packed.dtype == torch.int32
        codes = torch.stack([packed >> shift & 15 for shift in range(0, 32, 4)], -1).flatten(1)[:, : shape[1]] - 8
    return codes * scale.repeat_interleave(codes.shape[1] // scale.shape[1], 1)


def test_files_hold_every_zero_in_place(quantized: Path, sparse: Path) -> None:
    assert kind_of(quantized) == "quantized"
    settings = SETTINGS[quantized.name]
    before, after = weights(sparse), weights(quantized)
    for name, weight in before.items():
        values = stored(quantized, name)
        if values is None:
            assert settings.method == "qat" or torch.equal(after[name], weight)
            assert "proj" not in name or (quantized.name == "mixed" and "1.self_attn.q_proj" in name)
            continue
        int8 = name in after
        assert int8 == (settings.scheme == "w8a8" or (quantized.name == "mixed" and "0.mlp.down_proj" in name))
        groups = 1 if int8 else weight.shape[1] // math.gcd(weight.shape[1], settings.group_size)
        assert after[f"{name}_scale"].shape == (weight.shape[0], groups)
        assert not values[weight == 0].any()
        assert (values != 0).sum() > (0.97 if int8 else 0.8) * (weight != 0).sum()
        assert ((values - weight).norm() / weight.norm()) < (0.03 if int8 else 0.3)
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    assert "sparsity_config" not in config
    assert {"lm_head"} <= set(config["ignore"])


def test_the_description_names_formats_and_exceptions(quantized: Path) -> None:
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    groups = config["config_groups"]
    if quantized.name != "mixed":
        layout = "int-quantized" if quantized.name.startswith("w8a8") else "pack-quantized"
        assert config["format"] == layout and config["ignore"] == ["lm_head"]
        assert {group["format"] for group in groups.values()} == {layout}
        return
    assert config["format"] == "mixed-precision"
    assert config["ignore"] == ["model.layers.1.self_attn.q_proj", "lm_head"]
    assert [(group["targets"], group["format"]) for group in groups.values()] == [
        (["Linear"], "pack-quantized"),
        (["model.layers.0.mlp.down_proj"], "int-quantized"),
    ]


def test_transformers_loads_it_with_every_zero_in_place(quantized: Path, sparse: Path) -> None:
    pytest.importorskip("compressed_tensors")
    model, dense = (AutoModelForCausalLM.from_pretrained(path) for path in (quantized, sparse))
    ids = torch.tensor([list(b"12+3=15 #### 15" * 2)])
    with torch.no_grad():
        logits, expected = model(ids).logits, dense(ids).logits
    assert ((logits - expected).norm() / expected.norm()) < (0.05 if "w8a8" in quantized.name else 0.5)
    for name, weight in weights(sparse).items():
        values = stored(quantized, name)
        if values is not None:
            loaded = model.get_parameter(name)  # expanded by the forward pass
            assert torch.equal(loaded.float(), values.to(loaded.dtype).float()), name
            assert not loaded[weight == 0].any()


def test_the_engine_reads_what_transformers_reads(quantized: Path) -> None:
    model = pack_in_memory(quantized)
    for name, weight in model.weights.items():
        values = stored(quantized, name)
        if values is not None:
            ours = dequantize(weight) if weight.group else decode(weight) * weight.scale[:, None]
            np.testing.assert_array_equal(ours, values.numpy())


def test_report_says_what_each_layer_lost(quantized: Path) -> None:
    report = json.loads((quantized / "quantize-report.json").read_text())
    assert report["layers"]
    for layer in report["layers"]:
        assert 0 <= layer["sparsity"] - layer["sparsity_before"] < (0.02 if layer["bits"] == 8 else 0.1)
        if report["settings"]["method"] == "gptq":
            assert layer["output_error"] <= layer["output_error_of_rounding"] < (0.01 if layer["bits"] == 8 else 0.1)


def test_a_pattern_without_a_match_is_refused(sparse: Path, tmp_path: Path) -> None:
    settings = QuantizeSettings(method="rtn", overrides={"*.dwon_proj": "skip"})
    with pytest.raises(CutworkError, match=r"dwon_proj.*one is model\.layers\.0"):
        quantize(sparse, tmp_path / "out", settings, console=QUIET)
    settings = QuantizeSettings(method="rtn", ignore=("lm_head", "down_proj"))
    with pytest.raises(CutworkError, match=r"ignore: no module matches 'down_proj'; a linear is called model"):
        quantize(sparse, tmp_path / "out", settings, console=QUIET)


def test_what_is_read_is_not_replaced(sparse: Path, tmp_path: Path) -> None:
    files = sorted(sparse.iterdir())
    for output in (sparse, sparse.parent):
        with pytest.raises(CutworkError, match="holds the model to read"):
            quantize(sparse, output, QuantizeSettings(method="rtn"), console=QUIET, overwrite=True)
    assert sorted(sparse.iterdir()) == files


def test_a_linear_of_zeros_has_an_error(sparse: Path, tmp_path: Path) -> None:
    shutil.copytree(sparse, tmp_path / "zeros")
    stored = weights(sparse)
    name = next(name for name in stored if "down_proj" in name)
    stored[name] = torch.zeros_like(stored[name])
    save_file(stored, tmp_path / "zeros" / "model.safetensors", {"format": "pt"})
    quantize(tmp_path / "zeros", tmp_path / "out", QuantizeSettings(calibration_samples=4), sums(8), console=QUIET)
    report = json.loads((tmp_path / "out" / "quantize-report.json").read_text())
    errors = {layer["name"]: layer["output_error"] for layer in report["layers"]}
    assert errors[name.removesuffix(".weight")] == 0


def test_routers_and_fragile_modules_keep_their_precision_unless_named(tmp_path: Path) -> None:
    settings = QuantizeSettings(method="rtn")
    assert not kept("model.layers.0.mlp.gate_proj", None)
    assert kept("model.layers.0.mlp.gate", None)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    assert {name.rsplit(".", 1)[1] for name in choose(t5, settings)} == {"q", "k", "v", "o", "wi"}
    named = settings.model_copy(update={"overrides": {"decoder.*.wo": "w8a8"}})
    assert set(choose(t5, named)) - set(choose(t5, settings)) == {"decoder.block.0.layer.2.DenseReluDense.wo"}


def test_ignored_modules_stay_as_they_are(sparse: Path, tmp_path: Path) -> None:
    settings = QuantizeSettings(method="rtn", ignore=("*.down_proj", "model.layers.0.*"))
    quantize(sparse, tmp_path / "out", settings, console=QUIET)
    before, after = weights(sparse), weights(tmp_path / "out")
    kept = {name for name in before if after[name].dtype != torch.int8 and "proj" in name}
    assert kept == {name for name in before if "proj" in name and ("down_proj" in name or "layers.0." in name)}
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert {f"{name}.weight" for name in ignored} == kept | {"lm_head.weight"}
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_bad_input_is_one_sentence(sparse: Path, tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="nothing is left to quantise"):
        quantize(sparse, tmp_path / "out", QuantizeSettings(ignore=("*",)), sums(4), console=QUIET)
    quantize(sparse, tmp_path / "int8", QuantizeSettings(method="rtn"), console=QUIET)
    with pytest.raises(CutworkError, match="is a quantized model"):
        quantize(tmp_path / "int8", tmp_path / "out", FEW, sums(4), console=QUIET)
    assert {path.name for path in tmp_path.iterdir()} == {"int8"}


def test_a_mixture_of_experts_is_refused_and_not_its_attention_rounded_alone(tmp_path: Path) -> None:
    mixture().save_pretrained(tmp_path / "mixture")
    with pytest.raises(CutworkError, match="as mixtures of experts do"):
        quantize(tmp_path / "mixture", tmp_path / "out", QuantizeSettings(method="rtn"), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["mixture"]


def test_nomics_own_checkpoints_are_told_what_to_do(tmp_path: Path) -> None:
    """Their q, k and v are one weight, which transformers takes apart when it loads and merges when it saves."""
    own = write_tiny_checkpoint(tmp_path / "own")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    NomicBertModel(NomicBertConfig(vocab_size=300, intermediate_size=64, **sizes)).save_pretrained(own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "n_embd": 32, "activation_function": "swiglu"}))
    assert "encoder.layers.0.attn.Wqkv.weight" in weights(own)
    rounding = QuantizeSettings(method="rtn", scheme="w4a16", group_size=32)
    with pytest.raises(CutworkError, match=r"q_proj in one weight with others.*save_original_format=False"):
        quantize(own, tmp_path / "out", rounding, console=QUIET)
    texts = [Sample("", f"text {i}") for i in range(4)]
    with pytest.raises(CutworkError, match=r"another name.*save_original_format=False.*n_embd"):
        prune(own, tmp_path / "out", PruneSettings(calibration_samples=4), texts, console=QUIET)
    shutil.copytree(own, tmp_path / "new")
    load_model(own, "auto").save_pretrained(tmp_path / "new", save_original_format=False)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    (tmp_path / "new" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "n_embd"}))
    quantize(tmp_path / "new", tmp_path / "int4", rounding, console=QUIET)
    prune(tmp_path / "new", tmp_path / "pruned", PruneSettings(calibration_samples=4), texts, console=QUIET)
    Model(pack_in_memory(tmp_path / "int4"), threads=1).close()
