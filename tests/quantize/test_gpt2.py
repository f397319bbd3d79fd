"""GPT-2 keeps its linears transposed: from pruning to the engine, codes are [out, in] like everybody's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from cutwork import Model
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed
from cutwork.pack.restore import restore
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import QAT, PruneSettings, QuantizeSettings
from cutwork.store.directory import kind_of, read_config
from tests.quantize.test_quantize import stored
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.torch_models.tiny import sums, weights

QUIET = Console(quiet=True)
IDS = list(b"12+3=15 #### 15" * 2)
SETTINGS = {
    "w8a8-gptq": QuantizeSettings(calibration_samples=16),
    "w8a8-smoothed": QuantizeSettings(method="rtn", smoothing=0.5, calibration_samples=16),
    "w8a8-qat": QuantizeSettings(method="qat", qat=QAT.model_copy(update={"max_steps": 3, "batch_size": 8})),
    "w4a16-gptq": QuantizeSettings(scheme="w4a16", group_size=32, sparsity=0.7, calibration_samples=16),
    "mixed": QuantizeSettings(scheme="w4a16", method="rtn", overrides={"*.0.mlp.*": "w8a8", "*.1.attn.c_attn": "skip"}),
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer, pruned."""
    home = tmp_path_factory.mktemp("models")
    dense = write_tiny_checkpoint(home / "dense")
    torch.manual_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=259, n_embd=64, n_layer=2, n_head=4, n_positions=128, eos_token_id=256, **still)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else 0.1)
    model.save_pretrained(dense)
    prune(dense, home / "sparse", PruneSettings(sparsity=0.6, calibration_samples=16), sums(20), console=QUIET)
    return home / "sparse"


@pytest.fixture(scope="module", params=SETTINGS)
def quantized(request: pytest.FixtureRequest, sparse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / request.param
    quantize(sparse, output, SETTINGS[request.param], sums(20), console=QUIET)
    return output


def dequantized(directory: Path, sparse: Path) -> GPT2LMHeadModel:
    """transformers' model with the values that a quantised checkpoint's codes stand for, as it keeps them."""
    model = GPT2LMHeadModel.from_pretrained(sparse).float().eval()
    files = weights(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = stored(directory, name)
            parameter.copy_(files[name] if values is None else values.T)
    return model


def test_codes_lie_like_those_of_other_linears_and_keep_every_zero(quantized: Path, sparse: Path) -> None:
    assert kind_of(quantized) == "quantized"
    groups = read_config(quantized)["quantization_config"]["config_groups"]
    assert {group["weights"]["orientation"] for group in groups.values()} == {"out-in"}
    assert groups["group_0"]["targets"] == ["Conv1D"]
    found = 0
    for name, weight in weights(sparse).items():
        values = stored(quantized, name)
        if values is not None:
            found += 1
            assert values.shape == weight.T.shape and values.dtype == torch.float32
            assert not values[weight.T == 0].any()
            assert (weight == 0).float().mean() > 0.59
    assert found == (7 if quantized.name == "mixed" else 8)


def test_the_engine_computes_what_transformers_does_with_the_same_values(
    quantized: Path, sparse: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        expected = dequantized(quantized, sparse)(torch.tensor([IDS])).logits[0].numpy()
    pack(quantized, tmp_path / "packed")
    for path in (quantized, tmp_path / "packed"):
        with Model.load(path, threads=1, cache_dtype="f32", cache_bytes=1 << 22) as model:
            difference = np.linalg.norm(model.logits(IDS) - expected) / np.linalg.norm(expected)
        assert difference < 0.03  # kernels round what linears read; a matrix the wrong way round gives more than 1


def test_packing_keeps_codes_and_restores_every_tensor(quantized: Path, tmp_path: Path) -> None:
    pack(quantized, tmp_path / "packed")
    kinds = {weight.dtype for name, weight in read_packed(tmp_path / "packed").weights.items() if ".c_" in name}
    assert "i8" in kinds or "i4" in kinds
    restore(tmp_path / "packed", tmp_path / "back")
    before, after = weights(quantized), weights(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16"])
def test_codes_that_become_floats_turn_round(sparse: Path, tmp_path: Path, scheme: str) -> None:
    """What a kernel cannot read is restored as floats, which transformers wants the other way round."""
    from safetensors.torch import load_file, save_file

    groups = {"group_size": 32} if scheme == "w4a16" else {}
    settings = QuantizeSettings.model_validate({"scheme": scheme, "method": "rtn", **groups})
    quantize(sparse, tmp_path / "q", settings, console=QUIET)
    expected = dequantized(tmp_path / "q", sparse).state_dict()
    files = load_file(tmp_path / "q" / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    if scheme == "w8a8":
        files[f"{name}_zero_point"] = torch.ones(files[name].shape[0], 1, dtype=torch.int8)
        expected[name] -= files[f"{name}_scale"].T
    else:
        files[f"{name}_g_idx"] = torch.arange(64, dtype=torch.int32) // 32
    save_file(files, tmp_path / "q" / "model.safetensors", metadata={"format": "pt"})
    pack(tmp_path / "q", tmp_path / "packed")
    restore(tmp_path / "packed", tmp_path / "back")
    after = weights(tmp_path / "back")
    assert torch.allclose(after[name], expected[name], atol=1e-6)
    if scheme == "w4a16":  # then all of them are, and the description goes
        assert all(torch.equal(after[name], expected[name]) for name in after if ".c_" in name)
        GPT2LMHeadModel.from_pretrained(tmp_path / "back")


def test_transformers_refuses_it_instead_of_leaving_weights_random(quantized: Path) -> None:
    pytest.importorskip("compressed_tensors")
    with pytest.raises(ValueError, match="orientation"):
        AutoModelForCausalLM.from_pretrained(quantized)
