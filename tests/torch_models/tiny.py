"""Tiny models and data of the training tests."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from cutwork.pack import slots
from cutwork.prune.adaptive import AdaptiveTiles
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured
from cutwork.tasks.rendering import IGNORED
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.torch_models.model_inputs import Example

torch.set_num_threads(1)
torch.compiler.set_stance("force_eager")  # torchao's optimisers take a minute to compile, and then few steps


def llama(seed: int = 0, **options: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 61,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            **options,
        }
    )
    return LlamaForCausalLM(config)


def opt(seed: int = 0) -> OPTForCausalLM:
    torch.manual_seed(seed)
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=61,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, **dropout))


def mpt(seed: int = 0) -> MptForCausalLM:
    torch.manual_seed(seed)
    return MptForCausalLM(MptConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4, max_seq_len=64))


def mixture() -> MixtralForCausalLM:
    """Of experts, which are tensors of three dimensions and no linears."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=61, num_hidden_layers=1, num_local_experts=4, **sizes))


def t5(seed: int = 0) -> T5ForConditionalGeneration:
    """More decoder than encoder blocks, so that the two are never confused."""
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=61,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=3,
            num_heads=4,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def whisper(seed: int = 0) -> WhisperForConditionalGeneration:
    torch.manual_seed(seed)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=61,
            num_mel_bins=8,
            d_model=32,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_source_positions=20,
            max_target_positions=32,
            decoder_start_token_id=1,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=2,
        )
    )


FAMILIES = {"llama": llama, "gpt2": gpt2, "mpt": mpt, "t5": t5, "whisper": whisper}


@torch.no_grad()
def cut(model: torch.nn.Module, fraction: float = 0.5) -> torch.nn.Module:
    """Zero random entries of the blocks' linears."""
    for linear in block_linears(model).values():
        linear.weight.mul_(torch.rand_like(linear.weight) >= fraction)
    return model


PATTERNS: dict[str, Pattern] = {"60%": Unstructured(0.6), "4:16": KeepNOfM(4, 16), "adaptive": AdaptiveTiles(0.75)}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


@torch.no_grad()
def cut_to(model: torch.nn.Module, pattern: Pattern) -> torch.nn.Module:
    """Zeros in a pattern, at random places of the blocks' linears."""
    for linear in block_linears(model).values():
        weight = out_in(linear)
        weight.mul_(at_random(weight.shape, pattern))
    return model


def at_random(shape: tuple[int, ...], pattern: Pattern, seed: int = 0) -> torch.Tensor:
    """Which weights of a shape [out, in] live, bool, by a pattern; tiles of 16 rows and columns matter unequally."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.rand(-(-shape[0] // 16), -(-shape[1] // 16), generator=generator)
    costs = torch.rand(shape, generator=generator) * torch.kron(tiles, torch.ones(16, 16))[: shape[0], : shape[1]]
    return pattern.keep(costs, torch.ones(shape, dtype=torch.bool))


def holds(pattern: Pattern, weight: torch.Tensor) -> bool:
    """Whether a weight [out, in] has zeros in a pattern; of 4:16 and adaptive, that it fits in as many slots."""
    if isinstance(pattern, Unstructured):
        return int((weight == 0).sum()) >= pattern.zeros(weight != 0)
    in_slots = slots.STEP_SLOTS * int(slots.steps_needed((weight != 0).numpy()).sum())
    return in_slots <= (1 - pattern.sparsity) * weight.numel()


class Listed(list[Example]):
    """Examples with what the sampler asks for."""

    @property
    def lengths(self) -> list[int]:
        return [len(example["labels"]) for example in self]


def random_examples(count: int, seed: int = 0, family: str = "llama") -> Listed:
    """Different lengths, prompts that are not learned, answers that are; as a family is fed."""
    draw = random.Random(seed)
    noise = torch.Generator().manual_seed(seed)
    result = Listed()
    for _ in range(count):
        prompt, answer = ([draw.randrange(61) for _ in range(draw.randint(2, 9))] for _ in range(2))
        if family == "t5":
            result.append({"input_ids": prompt, "labels": answer})
        elif family == "whisper":
            result.append({"input_features": torch.randn(8, 40, generator=noise), "labels": answer})
        else:
            result.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return result


def sums(count: int, seed: int = 0) -> list[Sample]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(90), draw.randrange(9)) for _ in range(count)]
    return [Sample(f"{a}+{b}?", f"{a}+{b}={a + b} #### {a + b}") for a, b in pairs]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")
