"""Blocks are found in the module tree of different families."""

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from cutwork.errors import CutworkError
from cutwork.torch_models.blocks import block_linears, block_lists, check_linear, out_in
from tests.torch_models.tiny import FAMILIES, gpt2, llama, mixture, opt


@pytest.mark.parametrize(
    ("model", "stack", "per_block"),
    [(llama(), "model.layers", 7), (opt(), "model.decoder.layers", 6), (gpt2(), "transformer.h", 4)],
    ids=["llama", "opt", "gpt2"],
)
def test_blocks_of_decoders(model: nn.Module, stack: str, per_block: int) -> None:
    lists = block_lists(model)
    assert list(lists) == [stack]
    names = block_linears(model)
    assert len(names) == per_block * len(lists[stack])
    assert all(name.startswith(f"{stack}.") for name in names)
    assert not any("head" in name or "embed" in name for name in names)


def test_an_encoder_and_a_decoder_are_two_stacks() -> None:
    config = T5Config(vocab_size=61, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=4)
    assert {name: len(blocks) for name, blocks in block_lists(T5ForConditionalGeneration(config)).items()} == {
        "encoder.block": 2,
        "decoder.block": 3,
    }


def test_transposed_linears_are_seen_as_out_in_and_share_memory() -> None:
    linear = block_linears(gpt2())["transformer.h.0.attn.c_attn"]
    view = out_in(linear)
    assert view.shape == (96, 32)
    view.zero_()
    assert not linear.weight.any()


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(CutworkError, match="no stack of blocks"):
        block_lists(nn.Sequential(nn.Linear(3, 3), nn.ModuleList([nn.Conv1d(1, 1, 1)])))
    assert torch.get_num_threads() <= 2


def test_a_model_of_which_most_is_in_no_linear_is_refused() -> None:
    for model in (*(make() for make in FAMILIES.values()), opt()):
        check_linear(model)
    with pytest.raises(CutworkError, match=r"MixtralForCausalLM keeps model\.layers\.0\.mlp\.experts\.\w+ \[4, "):
        check_linear(mixture())
