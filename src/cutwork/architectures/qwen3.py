"""Qwen3: Llama whose queries and keys are normalised per head, with Qwen2's windows (arXiv 2505.09388)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import flag
from cutwork.architectures.llama import BARE, UNREAD, LlamaConfig, decoder, like_llama
from cutwork.architectures.qwen2 import sliding_windows


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `qwen3` model."""
    bias = flag(config, "attention_bias")
    return decoder(config, qkv_bias=bias, output_bias=bias, qk_norm=True, windows=sliding_windows(config))


ARCHITECTURE = Architecture(
    "qwen3",
    models="Qwen3, dense, Qwen3 Embedding and Reranker",
    source="arXiv 2505.09388",
    decoder=like_llama(parse),
    renames=BARE,
    unread=UNREAD,
)
