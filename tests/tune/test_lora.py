"""Masked adapters: what is merged is what was trained, every zero stays, and nothing but adapters moves."""

from pathlib import Path

import pytest
import torch

from cutwork.errors import CutworkError
from cutwork.prune.pattern import Pattern
from cutwork.recipe import LoraSettings
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.data import collate
from cutwork.tune.lora import add_adapters, merge
from tests.torch_models.tiny import FAMILIES, cut, cut_to, every_pattern, holds
from tests.tune.test_trainer import make

LORA = LoraSettings(rank=4, alpha=8.0)


@every_pattern
@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_is_the_trained_one_bit_for_bit(tmp_path: Path, family: str, pattern: Pattern) -> None:
    model = cut_to(FAMILIES[family](), pattern)
    plain = FAMILIES[family]()
    plain.load_state_dict(model.state_dict())
    base = {name: weight.clone() for name, weight in plain.state_dict().items()}
    add_adapters(model, LORA, keep_zeros=True)
    trainer = make(tmp_path, model, family=family, max_steps=3, learning_rate=1e-1)
    trainer.train()
    merged = merge(model.state_dict(), LORA, keep_zeros=True)
    assert merged.keys() == base.keys()
    moved = [name for name in base if not torch.equal(merged[name], base[name])]
    assert len(moved) == len(trainer.masks.live)
    for name in moved:
        assert (merged[name][base[name] == 0] == 0).all(), name
    for name, linear in block_linears(model).items():
        assert torch.equal(linear.weight, merged[f"{name}.weight"]), name  # what the forward pass has seen
        assert holds(pattern, out_in(linear)), name
    plain.load_state_dict(merged)
    inputs = trainer.model_inputs.keywords(collate(list(trainer.train_dataset)[:4]))
    assert torch.allclose(plain.eval()(**inputs).logits, model.eval()(**inputs).logits, atol=1e-5)


def test_without_masks_zeros_are_filled() -> None:
    model = cut(FAMILIES["llama"](), 0.6)
    names = add_adapters(model, LoraSettings(targets=("q_proj", "*.1.mlp.*")), keep_zeros=False)
    assert len(names) == 3 + 3
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    merged = merge(model.state_dict(), LoraSettings(), keep_zeros=False)
    assert merged["model.layers.0.self_attn.q_proj.weight"].count_nonzero() == 32 * 32
    assert merged["model.layers.0.self_attn.k_proj.weight"].count_nonzero() < 0.6 * 16 * 32


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(CutworkError, match=r"no linear matches lora.targets query; there are down_proj, gate_proj"):
        add_adapters(FAMILIES["llama"](), LoraSettings(targets=("query",)), keep_zeros=True)
