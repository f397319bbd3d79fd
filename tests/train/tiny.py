"""Tiny models and data of the training tests."""

import random
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from cutwork.tasks.rendering import IGNORED
from cutwork.tasks.task import Sample
from cutwork.train.data import Example

torch.set_num_threads(1)


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
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64))


@torch.no_grad()
def cut(model: torch.nn.Module, fraction: float = 0.5) -> torch.nn.Module:
    """Zero random entries of the blocks' linears."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "layers." in name:
            parameter.mul_(torch.rand_like(parameter) >= fraction)
    return model


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Different lengths, prompts that are not learned, answers that are."""
    draw = random.Random(seed)
    result = []
    for _ in range(count):
        prompt, answer = ([draw.randrange(61) for _ in range(draw.randint(2, 9))] for _ in range(2))
        result.append({"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer})
    return result


def sums(count: int, seed: int = 0) -> list[Sample]:
    draw = random.Random(seed)
    pairs = [(draw.randrange(90), draw.randrange(9)) for _ in range(count)]
    return [Sample(f"{a}+{b}?", f"{a}+{b}={a + b} #### {a + b}") for a, b in pairs]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")
