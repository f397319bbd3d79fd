"""A Llama of TinyLlama-1.1B's shape with random weights, written for Cutwork and for llama.cpp from the same numbers.

Speed does not depend on what the weights are, only on how many are zero; equal weights let the outputs be compared.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from cutwork.checkpoint import output_directory
from cutwork.pack import bfloat16
from cutwork.pack.encodings import EncodedWeight, encode
from cutwork.pack.writer import PackWriter

HIDDEN, MLP, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 32, 4, 32000
HEAD_DIM = HIDDEN // HEADS
CONTEXT, EPS, ROPE_THETA = 2048, 1e-5, 10000.0
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"

_MATRICES = {  # of a layer: Hugging Face name -> (GGUF name, rows, columns)
    "self_attn.q_proj": ("attn_q", HIDDEN, HIDDEN),
    "self_attn.k_proj": ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": ("attn_output", HIDDEN, HIDDEN),
    "mlp.gate_proj": ("ffn_gate", MLP, HIDDEN),
    "mlp.up_proj": ("ffn_up", MLP, HIDDEN),
    "mlp.down_proj": ("ffn_down", HIDDEN, MLP),
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def config(layers: int) -> dict[str, Any]:
    """The Hugging Face configuration."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def weights(layers: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """(Hugging Face name, GGUF name, float32 values), one at a time and always the same."""
    shapes: list[tuple[str, str, tuple[int, ...]]] = [(EMBEDDING, "token_embd.weight", (VOCABULARY, HIDDEN))]
    for layer in range(layers):
        for name, (short, rows, cols) in _MATRICES.items():
            shapes.append((f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{short}.weight", (rows, cols)))
        for name, short in _NORMS.items():
            shapes.append((f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{short}.weight", (HIDDEN,)))
    shapes += [(FINAL_NORM, "output_norm.weight", (HIDDEN,)), (HEAD, "output.weight", (VOCABULARY, HIDDEN))]
    for seed, (name, short, shape) in enumerate(shapes):
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        yield name, short, 1 + 0.1 * values if len(shape) == 1 else values * np.float32(shape[1] ** -0.5)


def write_packed(path: Path, layers: int, sparsity: float) -> None:
    """Int8 per output channel; the smallest weights of the blocks' matrices are pruned, the output head is dense."""
    with output_directory(path) as partial, PackWriter(partial, config(layers), 9 * layers + 3) as writer:
        for name, _, values in weights(layers):
            writer.add(name, _encode(name, values, sparsity))


def write_gguf(path: Path, layers: int, quantization: str) -> None:
    """All matrices in one of ggml's types, dense."""
    kind = gguf.GGMLQuantizationType[quantization]
    partial = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name("random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    for name, short, values in weights(layers):
        if values.ndim == 1:
            writer.add_tensor(short, values)
        else:
            rows = _interleave_rotary(name, values)
            writer.add_tensor(short, gguf.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _encode(name: str, values: np.ndarray, sparsity: float) -> EncodedWeight:
    if values.ndim == 1:
        return encode(values.astype(np.float32))
    if name == EMBEDDING:
        return encode(bfloat16.from_float32(values))
    scale = np.abs(values).max(axis=1) / np.float32(127)
    if sparsity and name != HEAD:
        magnitudes = np.abs(values)
        threshold = np.quantile(magnitudes.ravel()[::17], sparsity)
        values = np.where(magnitudes < threshold, np.float32(0), values)
    return encode(np.rint(values / scale[:, None]).astype(np.int8), scale)


def _interleave_rotary(name: str, values: np.ndarray) -> np.ndarray:
    """Llama's GGUF rotates neighbouring rows of the query and key heads, Hugging Face rows half a head apart."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    heads = len(values) // HEAD_DIM
    return values.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(values.shape)
