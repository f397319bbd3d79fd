"""Granite 3: Llama with factors on embedding, attention, residuals and logits (IBM 2024)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import number
from cutwork.architectures.llama import UNREAD, LlamaConfig, like_llama
from cutwork.architectures.llama import parse as parse_llama


def parse(config: Mapping[str, Any]) -> LlamaConfig:
    """The config of a `granite` model."""
    return with_factors(parse_llama(config), config)


def with_factors(c: LlamaConfig, config: Mapping[str, Any]) -> LlamaConfig:
    """With Granite's factors.

    What is added to the residual stream is multiplied by r = `residual_multiplier`. Here the stream is 1/r of that, so
    that nothing has to be multiplied: the embedding is divided by r, and norms, which undo any factor, have eps/r².
    """
    residual = _factor(config, "residual_multiplier")
    return replace(
        c,
        embedding_scale=_factor(config, "embedding_multiplier") / residual,
        rms_norm_eps=c.rms_norm_eps / residual**2,
        attention_scale=_factor(config, "attention_multiplier"),
        logits_scale=1 / _factor(config, "logits_scaling"),
    )


def _factor(config: Mapping[str, Any], key: str) -> float:
    return number(config, key, 1.0, minimum=1e-6)


HEADLESS = (("logits_scaling", 1.0),)
ARCHITECTURE = Architecture(
    "granite",
    models="Granite 3.0 to 3.3, dense",
    source="IBM 2024",
    decoder=like_llama(parse),
    unread=UNREAD,
    headless=HEADLESS,
)
