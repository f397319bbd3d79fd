"""Weights in llama.cpp's format: random ones, one tensor at a time, and those of a checkpoint."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from benchmarks.common.random_llama import in_layers, tensors
from benchmarks.common.shapes import EPS, ROPE_THETA, Shape
from cutwork.store.json_file import read_json


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


def convert(checkpoint: Path, path: Path) -> None:
    """A float32 checkpoint of Llama or Qwen 2 (tied embeddings or not) as float32 GGUF, without its tokenizer."""
    config, weights = read_json(checkpoint / "config.json"), load_file(checkpoint / "model.safetensors")
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    architecture = config["model_type"]
    arrange = {"llama": _interleave_rotary, "qwen2": lambda _, values, __: values}[architecture]
    partial = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(partial, architecture)
    writer.add_name(checkpoint.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], layers)
    for name, values in weights.items():
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(short, np.ascontiguousarray(arrange(name, values.astype(np.float32), head_dim)))
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
