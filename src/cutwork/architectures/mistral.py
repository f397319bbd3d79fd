"""Mistral: Llama with a sliding window on every layer (arXiv 2310.06825)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.llama import BARE, UNREAD, LlamaConfig, decoder, like_llama


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `mistral` model; a null `sliding_window` means full attention, a missing one 4096."""
    layers = integer(config, "num_hidden_layers", maximum=1024)
    window = config.get("sliding_window", 4096)
    if window is not None:
        window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    return decoder(config, windows=(window,) * layers, default_kv_heads=8)


ARCHITECTURE = Architecture(
    "mistral",
    models="Mistral 7B, Zephyr, Mistral Nemo",
    source="arXiv 2310.06825",
    decoder=like_llama(parse),
    renames=BARE,
    unread=UNREAD,
)
