"""The language model inside of one that also sees or hears, as a checkpoint of its own.

Wrappers (Gemma 3 from 4B on, Mistral Small 3.1, Ministral 3) keep its configuration under `text_config` and its tensors
under `language_model.`, or since transformers 4.52 `model.language_model.`; towers and projectors are left out. No
torch here.
"""

from collections.abc import Mapping
from typing import Any

from cutwork.store.bitmask import Expanded
from cutwork.store.renamed import Renamed
from cutwork.store.safetensors import Tensors

WRAPPER = "wrapper_model_type"
_PREFIXES = (("model.language_model.", "model."), ("language_model.", ""), ("lm_head.", "lm_head."))
# What the text's own configuration may leave to the wrapper's.
_SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "dtype", "torch_dtype",
           "quantization_config", "compression_config")  # fmt: skip


def wraps_text(config: Mapping[str, Any]) -> bool:
    """Whether a Hugging Face configuration is a wrapper's."""
    inner = config.get("text_config")
    return isinstance(inner, dict) and isinstance(inner.get("model_type"), str)


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the language model, with the wrapper's type as `WRAPPER`; of one that is no wrapper its
    own."""
    if not wraps_text(config):
        return config
    shared = {key: config[key] for key in _SHARED if key in config}
    return {**shared, **config["text_config"], WRAPPER: config.get("model_type")}


class TextPart(Renamed):
    """The tensors of the language model in a wrapper's checkpoint, by the names that they have without it."""

    def __init__(self, stored: Tensors | Expanded) -> None:
        super().__init__(stored, {plain: name for name in stored if (plain := plain_name(name))})

    @property
    def aliases(self) -> dict[str, str]:
        """What was left out because it equals what is stored, as of `Tensors`."""
        return {plain: kept for alias, kept in super().aliases.items() if (plain := plain_name(alias))}


def plain_name(name: str) -> str | None:
    """The name that a tensor of the language model in a wrapper has without it; None for what is named otherwise."""
    return next((new + name.removeprefix(old) for old, new in _PREFIXES if name.startswith(old)), None)
