"""Writes a transformers model as llama.cpp's converter does, with the gguf package."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_GEMMA = ("gemma2", "gemma3")
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INSIDE = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(
    model: Any, tokenizer: Any, path: Path, arch: str, kind: str = "F32", vectors: str = "F32", **more: Any
) -> Path:
    """Matrices are stored as `kind`, vectors as `vectors`; `more` are pairs of metadata, "." written as "__"."""
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, config.head_dim))
    if arch in _GEMMA:
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    for key, value in more.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        (writer.add_string if isinstance(value, str) else add)(key.replace("__", "."), value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = _as_theirs(tensor.float().numpy(), name, arch, config)
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 else vectors]
        writer.add_tensor(_name(name, arch), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str, arch: str) -> str:
    stem, _, end = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{end}"
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", stem).groups()  # type: ignore[union-attr]
    after_attention = "post_attention_norm" if arch in _GEMMA else "ffn_norm"
    return f"blk.{layer}.{({**_INSIDE, 'post_attention_layernorm': after_attention})[part]}.{end}"


def _as_theirs(array: np.ndarray, name: str, arch: str, config: Any) -> np.ndarray:
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
    if arch in _GEMMA and name.endswith("norm.weight"):
        return array + 1
    return array


def _llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (i / head_dim)
        original, low, high = (
            rope[key] for key in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
        )
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(rope["factor"])
        else:
            smooth = (original / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    """Of a byte-level tokenizer without merges, which gets two."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    vocabulary += [("he", len(vocabulary)), ("hel", len(vocabulary) + 1)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if index in tokenizer.all_special_ids else 1 for _, index in vocabulary])
    writer.add_token_merges(["h e", "he l"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
