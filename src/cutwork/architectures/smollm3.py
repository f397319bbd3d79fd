"""SmolLM3: Llama in which every fourth layer does not turn by positions (Hugging Face 2025)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag, integer
from cutwork.architectures.llama import UNREAD, LlamaConfig, decoder, like_llama
from cutwork.architectures.qwen2 import sliding_windows
from cutwork.errors import CutworkError


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `smollm3` model."""
    rotary = _rotary(config)
    kinds = ["full_attention" if turns else "sliding_attention" for turns in rotary]  # unless layer_types says more
    windows = sliding_windows({"layer_types": kinds, "sliding_window": None, **config})
    bias, usual = flag(config, "attention_bias"), {"rope_theta": 2e6, "tie_word_embeddings": True}
    parsed = decoder(
        {**usual, **config},
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(config, "mlp_bias"),
        windows=windows,
        default_kv_heads=4,
    )
    return replace(parsed, rotary=rotary)


def _rotary(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """`no_rope_layers` has a 1 for every layer that turns by positions, whatever its name says."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    given = config.get("no_rope_layers")
    if given is None:
        every = integer(config, "no_rope_layer_interval", maximum=1024, default=4)
        return tuple((i + 1) % every != 0 for i in range(layers))
    if not isinstance(given, list) or len(given) != layers or not set(given) <= {0, 1}:
        raise CutworkError("config.json: no_rope_layers must hold 1, for positions, or 0 for every layer")
    return tuple(map(bool, given))


ARCHITECTURE = Architecture(
    "smollm3", models="SmolLM3", source="Hugging Face 2025", decoder=like_llama(parse), unread=UNREAD
)
