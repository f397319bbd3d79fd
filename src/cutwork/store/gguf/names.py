"""A GGUF file's tensors by their Hugging Face names, and laid out as Hugging Face has them."""

import re
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.store import bfloat16
from cutwork.store.gguf.config import GEMMA, ROPE_FACTORS
from cutwork.store.gguf.file import GgufFile

_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA = _INSIDE | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def names(file: GgufFile, arch: str) -> dict[str, str]:
    """Hugging Face's name of every tensor that is a weight, by the file's. Raises CutworkError for one without."""
    inside = _GEMMA if arch in GEMMA else _INSIDE
    found = {}
    for name in file.tensors:
        layer = _LAYER.fullmatch(name)
        outside, _, end = name.rpartition(".")
        if layer and layer[2] in inside:
            found[name] = f"model.layers.{layer[1]}.{inside[layer[2]]}.{layer[3]}"
        elif outside in _OUTSIDE and end == "weight":
            found[name] = f"{_OUTSIDE[outside]}.weight"
        elif name != ROPE_FACTORS:
            raise CutworkError(
                f"{file.path} has a tensor '{name}', which no {arch} has that cutwork reads; use the Hugging Face "
                "checkpoint it was made from"
            )
    return found


def laid_out(array: np.ndarray, name: str, arch: str, config: dict[str, Any]) -> np.ndarray:
    """What llama.cpp's converter did to a tensor, undone; `array` is of any dtype, and not changed.

    Llama's queries and keys have their halves of each head interleaved; Gemma's norms have the one that it adds.
    Raises CutworkError if it has not as many rows as there must be.
    """
    if arch == "llama" and (part := re.search(r"\.attn_([qk])\.", name)):
        heads = config["num_attention_heads" if part[1] == "q" else "num_key_value_heads"]
        if heads < 1 or array.shape[0] % (2 * heads):
            raise CutworkError(f"'{name}' has {array.shape[0]} rows, which are no {heads} heads; get the file again")
        pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)
    if arch in GEMMA and name.endswith("norm.weight"):
        return bfloat16.in_float32(array) - np.float32(1)
    return array
