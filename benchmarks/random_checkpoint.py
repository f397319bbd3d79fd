"""Random models of TinyLlama-1.1B's shape: the three forms of checkpoint that `cutwork pack` reads, and packed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.pack.codes import pack_nibbles
from cutwork.pack.masked import encode
from cutwork.pack.pack import PackWriter
from cutwork.pack.record import EncodedWeight
from cutwork.store.output import output_directory
from cutwork.store.safetensors import SafetensorsWriter

HIDDEN, LAYERS, HEADS, KV_HEADS, MLP, VOCABULARY = 2048, 22, 32, 4, 5632, 32000
GROUP = 128
FORMATS = {"bf16": None, "int8": ("int-quantized", 8), "int4": ("pack-quantized", 4)}

_KV = HIDDEN // HEADS * KV_HEADS
_MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (_KV, HIDDEN),
    "self_attn.v_proj": (_KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HIDDEN // HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_checkpoint(path: Path, kind: str, sparsity: float) -> None:
    """A Hugging Face directory: "bf16", "int8" (W8A8 per channel) or "int4" (W4A16 in groups of 128)."""
    random = np.random.default_rng(0)
    with output_directory(path) as partial, SafetensorsWriter(partial, 25 * LAYERS + 3) as writer:
        (partial / "config.json").write_text(json.dumps(_config(kind), indent=1))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            writer.add(name, "BF16", _bfloat16(random, VOCABULARY, HIDDEN))
        writer.add("model.norm.weight", "BF16", _bfloat16(random, HIDDEN))
        for layer in range(LAYERS):
            for name in ("input_layernorm", "post_attention_layernorm"):
                writer.add(f"model.layers.{layer}.{name}.weight", "BF16", _bfloat16(random, HIDDEN))
            for name, (rows, cols) in _MATRICES.items():
                zero = random.random((rows, cols), np.float32) < sparsity
                _WRITERS[kind](writer, f"model.layers.{layer}.{name}.weight", random, zero)


def write_packed(path: Path, dtype: str, sparsity: float, layers: int = LAYERS, context: int = 2048) -> None:
    """Blocks of "f32", "bf16" or "i8" weights and a dense head of the same dtype; the embedding is bf16."""
    random = np.random.default_rng(0)
    config = _CONFIG | {"num_hidden_layers": layers, "max_position_embeddings": context}
    norms = ["model.norm.weight"]
    with output_directory(path) as partial, PackWriter(partial, config, 9 * layers + 3) as writer:
        writer.add("model.embed_tokens.weight", encode(_bfloat16(random, VOCABULARY, HIDDEN)))
        for layer in range(layers):
            block = f"model.layers.{layer}"
            norms += [f"{block}.input_layernorm.weight", f"{block}.post_attention_layernorm.weight"]
            for name, (rows, cols) in _MATRICES.items():
                zero = random.random((rows, cols), np.float32) < sparsity
                writer.add(f"{block}.{name}.weight", _packed(random, dtype, zero))
        writer.add("lm_head.weight", _packed(random, dtype, np.zeros((VOCABULARY, HIDDEN), bool)))
        for name in norms:
            writer.add(name, encode(np.ones(HIDDEN, np.float32)))


def _packed(random: np.random.Generator, dtype: str, zero: np.ndarray) -> EncodedWeight:
    if dtype == "i8":
        codes = np.where(zero, np.int8(0), random.integers(1, 128, zero.shape, np.int8))
        return encode(codes, np.full(len(zero), 1e-3, np.float32))
    values = np.where(zero, np.uint16(0), _bfloat16(random, *zero.shape))
    return encode(values if dtype == "bf16" else (values.astype(np.uint32) << 16).view(np.float32))


def _add_bf16(writer: SafetensorsWriter, name: str, random: np.random.Generator, zero: np.ndarray) -> None:
    writer.add(name, "BF16", np.where(zero, np.uint16(0), _bfloat16(random, *zero.shape)))


def _add_int8(writer: SafetensorsWriter, name: str, random: np.random.Generator, zero: np.ndarray) -> None:
    codes = random.integers(1, 128, zero.shape, np.int8)
    writer.add(name, "I8", np.where(zero, np.int8(0), codes))
    writer.add(f"{name}_scale", "F32", np.full((len(zero), 1), 1e-3, np.float32))


def _add_int4(writer: SafetensorsWriter, name: str, random: np.random.Generator, zero: np.ndarray) -> None:
    codes = random.integers(1, 8, zero.shape, np.int8)
    writer.add(f"{name}_packed", "I32", pack_nibbles(np.where(zero, np.int8(0), codes)))
    writer.add(f"{name}_shape", "I64", np.asarray(zero.shape, np.int64))
    writer.add(f"{name}_scale", "F32", np.full((len(zero), zero.shape[1] // GROUP), 1e-2, np.float32))


_WRITERS: dict[str, Callable[[SafetensorsWriter, str, np.random.Generator, np.ndarray], None]] = {
    "bf16": _add_bf16,
    "int8": _add_int8,
    "int4": _add_int4,
}


def _bfloat16(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Bits of numbers of either sign between 1/128 and 1/32."""
    bits = random.integers(0x3C00, 0x3D00, shape, np.uint16)
    return bits | random.integers(0, 2, shape, np.uint16) << 15


def _config(kind: str) -> dict[str, Any]:
    form = FORMATS[kind]
    if form is None:
        return _CONFIG
    name, bits = form
    size = {"strategy": "channel"} if bits == 8 else {"strategy": "group", "group_size": GROUP}
    weights = {"num_bits": bits, "type": "int", "symmetric": True, "dynamic": False, **size}
    return _CONFIG | {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": name,
            "config_groups": {"group_0": {"targets": ["Linear"], "format": name, "weights": weights}},
            "ignore": ["lm_head"],
        }
    }
