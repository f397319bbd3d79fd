"""Every dtype with every pattern of zeros goes through files: packed, loaded, run, restored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.pack.codes import pack_nibbles
from cutwork.pack.pack import pack
from cutwork.pack.reader import read_packed, verify
from cutwork.pack.restore import restore
from cutwork.store.safetensors import Tensor

from .models import as_dtype, assert_same_tensors, write_checkpoint

WIDTH, MLP, VOCABULARY = 128, 192, 50
LINEARS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (MLP, WIDTH),
    "mlp.up_proj": (MLP, WIDTH),
    "mlp.down_proj": (WIDTH, MLP),
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
# A pattern: the height and width of a block, and how many of its kind are zero.
PATTERNS = {"dense": (1, 1, 0.0), "unstructured": (1, 1, 0.8), "1x4": (1, 4, 0.8), "4x1": (4, 1, 0.8)}
BLOCKS = {"1x4": "block1x4", "4x1": "block4x1"}
QUANTIZED = {"I8": "int-quantized", "I4": "pack-quantized"}


def matrix(shape: tuple[int, int], pattern: str, random: np.random.Generator) -> np.ndarray:
    high, wide, zeros = PATTERNS[pattern]
    keep = random.random((shape[0] // high, shape[1] // wide)) >= zeros
    values = 0.1 * random.standard_normal(shape).astype(np.float32)
    values[values == 0] = 0.1
    return np.asarray(values * keep.repeat(high, 0).repeat(wide, 1), np.float32)


def stored(name: str, values: np.ndarray, dtype: str) -> dict[str, Tensor]:
    """A weight as a checkpoint of this dtype holds it."""
    if dtype not in QUANTIZED:
        return {name: as_dtype(values, dtype)}
    most = 127 if dtype == "I8" else 7
    scale = np.abs(values).max(axis=1, keepdims=True) / most + 1e-6
    codes = np.rint(values / scale).astype(np.int8)
    codes[(codes == 0) & (values != 0)] = 1  # what is kept stays kept
    if dtype == "I8":
        return {name: Tensor("I8", codes), f"{name}_scale": as_dtype(scale, "F32")}
    groups = np.repeat(scale, values.shape[1] // 32, axis=1)
    return {
        f"{name}_packed": Tensor("I32", pack_nibbles(codes)),
        f"{name}_scale": as_dtype(groups, "BF16"),
        f"{name}_shape": Tensor("I64", np.array(values.shape)),
    }


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "I8", "I4"])
def test_every_dtype_and_pattern_through_files(dtype: str, pattern: str, tmp_path: Path) -> None:
    random = np.random.default_rng(len(dtype) + len(pattern))
    plain = "BF16" if dtype in QUANTIZED else dtype
    tensors = {
        "model.embed_tokens.weight": as_dtype(matrix((VOCABULARY, WIDTH), "dense", random), plain),
        "lm_head.weight": as_dtype(matrix((VOCABULARY, WIDTH), "dense", random), plain),
    }
    for norm in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        tensors[f"{norm}.weight"] = as_dtype(np.ones(WIDTH, np.float32), plain)
    linears = {f"model.layers.0.{name}.weight": shape for name, shape in LINEARS.items()}
    for name, shape in linears.items():
        tensors |= stored(name, matrix(shape, pattern, random), dtype)
    config = dict(CONFIG)
    if dtype in QUANTIZED:
        size = {"strategy": "group", "group_size": 32} if dtype == "I4" else {"strategy": "channel"}
        weights = {"num_bits": int(dtype[1:]), "type": "int", "symmetric": True, **size}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": QUANTIZED[dtype],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }
    source = write_checkpoint(tmp_path / "source", tensors, config)
    (source / "tokenizer.json").unlink()

    pack(source, tmp_path / "packed")
    packed = read_packed(tmp_path / "packed")
    for name in linears:
        verify(name, packed.weights[name])
        encoding = packed.weights[name].encoding
        assert (encoding == "dense") == (pattern == "dense")
        assert encoding == BLOCKS.get(pattern, encoding) or dtype == "I4"
    restore(tmp_path / "packed", tmp_path / "restored")
    assert_same_tensors(source, tmp_path / "restored")
    logits = []
    for directory in ("source", "packed", "restored"):
        with Model.load(tmp_path / directory, threads=1, cache_bytes=1 << 22) as model:
            logits.append(model.logits([3, 1, 4, 1, 5]))
    assert np.isfinite(logits[0]).all() and logits[0].std() > 0
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
