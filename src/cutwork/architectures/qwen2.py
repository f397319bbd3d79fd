"""Qwen2: Llama with biases on queries, keys and values, and a sliding window on some layers (arXiv 2407.10671)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag, integer
from cutwork.architectures.llama import BARE, UNREAD, LlamaConfig, decoder, like_llama
from cutwork.errors import CutworkError


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `qwen2` model."""
    return decoder(config, qkv_bias=True, windows=sliding_windows(config))


def sliding_windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """`layer_types` says which layers slide; configs older than it slide from layer `max_window_layers` on."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    if not flag(config, "use_sliding_window") or config.get("sliding_window", 4096) is None:
        return (None,) * layers
    window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    types = config.get("layer_types")
    if types is None:
        first = integer(config, "max_window_layers", maximum=4096, default=28, minimum=0)
        return tuple(window if i >= first else None for i in range(layers))
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise CutworkError("config.json: layer_types must name full_attention or sliding_attention for every layer")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


ARCHITECTURE = Architecture(
    "qwen2",
    models="Qwen 1.5, Qwen2 and Qwen2.5, DeepSeek-R1-Distill-Qwen",
    source="arXiv 2407.10671",
    decoder=like_llama(parse),
    renames=BARE,
    unread=UNREAD,
)
