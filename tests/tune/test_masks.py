"""Masks: made from zeros, saved bit by bit, checked when they come back."""

from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from cutwork.errors import CutworkError
from cutwork.torch_models.blocks import block_linears
from cutwork.tune.masks import LostZerosError, Masks, sparsity
from tests.torch_models.tiny import cut, llama


def test_dense_layers_have_no_mask_and_the_embedding_never_has() -> None:
    model = llama()
    assert Masks(model).live == {}
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = 0
        model.model.layers[1].mlp.up_proj.weight[0, :5] = 0
    masks = Masks(model)
    assert list(masks.live) == ["model.layers.1.mlp.up_proj"]
    assert (~masks.live["model.layers.1.mlp.up_proj"]).sum() == 5


def test_round_trip_is_one_bit_per_weight_and_remembers_live_zeros(tmp_path: Path) -> None:
    model = cut(llama())
    masks = Masks(model)
    file = tmp_path / "masks.safetensors"
    masks.save(file)
    name, linear = next(iter(block_linears(model).items()))
    assert load_file(file)[name].nbytes == -(-linear.weight.numel() // 8)
    live = masks.live[name].nonzero()[0]
    with torch.no_grad():
        linear.weight[tuple(live)] = 0  # a live weight that happens to be zero stays trainable
    again = Masks.load(model, file)
    assert all(torch.equal(again.live[key], masks.live[key]) for key in masks.live)
    assert again.live[name][tuple(live)]


def test_a_model_without_zeros_resumes(tmp_path: Path) -> None:
    Masks(llama()).save(tmp_path / "masks.safetensors")
    assert Masks.load(llama(), tmp_path / "masks.safetensors").live == {}


def test_a_revived_weight_is_named_on_load(tmp_path: Path) -> None:
    model = cut(llama())
    masks = Masks(model)
    masks.save(tmp_path / "m.safetensors")
    weight = model.model.layers[2].mlp.down_proj.weight
    with torch.no_grad():
        weight[tuple((weight == 0).nonzero()[0])] = 1e-9
    with pytest.raises(LostZerosError, match=r"1 pruned weights of model\.layers\.2\.mlp\.down_proj"):
        Masks.load(model, tmp_path / "m.safetensors")


def test_masks_of_another_model_are_refused(tmp_path: Path) -> None:
    Masks(cut(llama())).save(tmp_path / "m.safetensors")
    with pytest.raises(CutworkError, match="does not fit the model"):
        Masks.load(llama(hidden_size=64), tmp_path / "m.safetensors")


def test_sparsity_counts_zeros_per_layer() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:8] = 0
    found = sparsity(model)
    assert found.pop("model.layers.0.self_attn.o_proj") == 0.25
    assert set(found.values()) == {0.0}
