"""The random weights in the formats that need no converter: Hugging Face, packed and GGUF. One tensor at a time."""

import json
from pathlib import Path

import gguf
import numpy as np
from random_weights import EMBEDDING, HEAD, is_pruned, prune, tensors
from shapes import CONTEXT, EPS, ROPE_THETA, Shape
from tokenizers import Tokenizer, models

from cutwork.pack import bfloat16
from cutwork.pack.masked import encode
from cutwork.pack.pack import PackWriter
from cutwork.pack.record import EncodedWeight
from cutwork.store.output import output_directory
from cutwork.store.safetensors import SafetensorsWriter

INT4_GROUP = 128


def write_checkpoint(path: Path, shape: Shape) -> None:
    """A Hugging Face directory in bfloat16, with a tokenizer because converters insist on one."""
    with output_directory(path) as partial:
        (partial / "config.json").write_text(json.dumps(shape.config, indent=1))
        generation = {"bos_token_id": 1, "eos_token_id": 2}
        (partial / "generation_config.json").write_text(json.dumps(generation))
        Tokenizer(models.WordLevel(dict(vocabulary(shape)), "t0")).save(str(partial / "tokenizer.json"))
        special = {"bos_token": "t1", "eos_token": "t2", "unk_token": "t0"}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        (partial / "tokenizer_config.json").write_text(json.dumps(settings))
        with SafetensorsWriter(partial, 9 * shape.layers + 3) as writer:
            for name, _, values in tensors(shape):
                writer.add(name, "BF16", bfloat16.from_float32(values))


def vocabulary(shape: Shape) -> list[tuple[str, int]]:
    """Made-up words."""
    return [(f"t{i}", i) for i in range(shape.vocabulary)]


def write_packed(path: Path, shape: Shape, sparsity: float, bits: int) -> None:
    """Int8 per output channel or int4 in groups; the blocks' smallest weights are pruned, the int8 head is dense."""
    with output_directory(path) as partial, PackWriter(partial, shape.config, 9 * shape.layers + 3) as writer:
        for name, _, values in tensors(shape):
            writer.add(name, _encode(name, values, sparsity, bits))


def write_gguf(path: Path, shape: Shape, quantization: str) -> None:
    """All matrices in one of ggml's types, dense."""
    kind = gguf.GGMLQuantizationType[quantization]
    partial = path.with_name(f".{path.name}.partial")
    writer = gguf.GGUFWriter(partial, "llama", use_temp_file=True)
    writer.add_name("random")
    writer.add_context_length(CONTEXT)
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
    for name, short, values in tensors(shape):
        if values.ndim == 1:
            writer.add_tensor(short, values)
        else:
            rows = _interleave_rotary(name, values, shape.head_dim)
            writer.add_tensor(short, gguf.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _encode(name: str, values: np.ndarray, sparsity: float, bits: int) -> EncodedWeight:
    if values.ndim == 1:
        return encode(values.astype(np.float32))
    if name == EMBEDDING:
        return encode(bfloat16.from_float32(values))
    if is_pruned(name):
        values = prune(values, sparsity)
    if bits == 4 and name != HEAD:
        from cutwork.pack.int4 import encode_int4

        groups = values.reshape(len(values), -1, INT4_GROUP)
        steps = np.maximum(np.abs(groups).max(axis=2), np.float32(1e-30)) / np.float32(7)
        codes = np.rint(groups / steps[:, :, None]).astype(np.int8).reshape(values.shape)
        return encode_int4(codes, steps.astype(np.float16), INT4_GROUP)
    scale = np.abs(values).max(axis=1) / np.float32(127)
    return encode(np.rint(values / scale[:, None]).astype(np.int8), scale)


def _interleave_rotary(name: str, values: np.ndarray, head_dim: int) -> np.ndarray:
    """Llama's GGUF rotates neighbouring rows of the query and key heads, Hugging Face rows half a head apart."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    heads = len(values) // head_dim
    return values.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(values.shape)
