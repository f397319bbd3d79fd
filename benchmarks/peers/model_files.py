"""The random weights in llama.cpp's format, one tensor at a time."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from benchmarks.common.random_llama import in_layers, tensors
from benchmarks.common.shapes import EPS, ROPE_THETA, Shape


def write_gguf(path: Path, shape: Shape, quantization: str, layers_alike: bool = False) -> None:
    """All matrices in one of ggml's types, dense; `layers_alike` as in `write_packed`."""
    kind = gguf.GGMLQuantizationType[quantization]
    partial = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(partial, "llama", use_temp_file=True)
    writer.add_name("random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")
    for name, short, values in tensors(replace(shape, layers=1) if layers_alike else shape):
        raw = None if values.ndim == 1 else kind
        data = gguf.quantize(_interleave_rotary(name, values, shape.head_dim), kind) if raw else values
        for each in in_layers(short, shape.layers) if layers_alike else [short]:
            writer.add_tensor(each, data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _interleave_rotary(name: str, values: np.ndarray, head_dim: int) -> np.ndarray:
    """Llama's GGUF rotates neighbouring rows of the query and key heads, Hugging Face rows half a head apart."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    heads = len(values) // head_dim
    return values.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
