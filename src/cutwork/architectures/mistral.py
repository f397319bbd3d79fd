"""Mistral: Llama with a sliding window on every layer, or on some (arXiv 2310.06825)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.llama import BARE, UNREAD, LlamaConfig, decoder, like_llama
from cutwork.architectures.rope import layer_kinds


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `mistral` model; a null `sliding_window` means full attention, a missing one 4096.

    One with `layer_types`, as of Ministral 8B, has the window only where these say so.
    """
    layers = integer(config, "num_hidden_layers", maximum=1024)
    window = config.get("sliding_window", 4096)
    if window is not None:
        window = integer(config, "sliding_window", maximum=1 << 24, default=4096)
    everywhere = config.get("layer_types") is None
    kinds = ["sliding_attention"] * layers if everywhere else layer_kinds(config, every=1)
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return decoder(config, windows=windows, default_kv_heads=8)


ARCHITECTURE = Architecture(
    "mistral",
    models="Mistral 7B, Zephyr, Mistral Nemo",
    source="arXiv 2310.06825",
    decoder=like_llama(parse),
    renames=BARE,
    unread=UNREAD,
)
