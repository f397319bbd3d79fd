"""Small checkpoints for the tests of packing, written without torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cutwork.store import bfloat16
from cutwork.store.packed_codes import pack_nibbles
from cutwork.store.safetensors import SafetensorsWriter, Tensor, open_tensors

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}


def sparse(shape: tuple[int, ...], zeros: float, seed: int = 0) -> np.ndarray:
    """Float32 values of which about the fraction `zeros` is +0."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape).astype(np.float32)
    values[random.random(shape) < zeros] = 0
    return values


def as_dtype(values: np.ndarray, dtype: str) -> Tensor:
    """Float32 values as F32, F16, BF16 or I8."""
    if dtype == "BF16":
        return Tensor(dtype, bfloat16.from_float32(values))
    if dtype == "I8":
        return Tensor(dtype, np.clip(np.round(values * 40), -127, 127).astype(np.int8))
    return Tensor(dtype, values.astype({"F32": np.float32, "F16": np.float16}[dtype]))


def plain_tensors(dtype: str = "F32", zeros: float = 0.75, tied: bool = False) -> dict[str, Tensor]:
    """The tensors of one odd-shaped layer with an embedding, a bias and a norm."""
    shapes = {
        "model.embed_tokens.weight": ((50, 70), 0.0),
        "model.layers.0.mlp.up_proj.weight": ((101, 70), zeros),
        "model.layers.0.mlp.down_proj.weight": ((70, 101), zeros),
        "model.layers.0.mlp.up_proj.bias": ((101,), 0.0),
        "model.norm.weight": ((70,), 0.0),
        "lm_head.weight": ((50, 70), 0.0),
    }
    tensors = {
        name: as_dtype(sparse(shape, fraction, seed), dtype)
        for seed, (name, (shape, fraction)) in enumerate(shapes.items())
    }
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return tensors


def write_checkpoint(path: Path, tensors: dict[str, Tensor], config: dict[str, object] | None = None) -> Path:
    """A checkpoint directory with a stand-in for a tokenizer."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config or CONFIG))
    (path / "tokenizer.json").write_text("{}")
    with SafetensorsWriter(path, len(tensors), alignment=1, metadata={"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor.dtype, tensor.array)
    return path


def assert_same_tensors(a: Path, b: Path) -> None:
    """The two directories hold the same tensors, bit for bit."""
    left, right = open_tensors(a), open_tensors(b)
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].array.tobytes() == right[name].array.tobytes(), name


WIDTH, MLP = 128, 200  # 200: the last tile and the last window are no whole ones
VOCABULARY = 300  # of tests.engine.tiny's tokenizer of bytes, and more
LINEARS = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.v_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (MLP, WIDTH),
    "mlp.up_proj": (MLP, WIDTH),
    "mlp.down_proj": (WIDTH, MLP),
}
LLAMA: dict[str, Any] = {
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
# A pattern: the height and width of a block, and how many of its kind are zero; 4:16 keeps four of each 16 columns,
# adaptive 0, 4, 8 or 12 of them, as each tile of 16 rows and columns has it.
PATTERNS = {
    "dense": (1, 1, 0.0),
    "unstructured": (1, 1, 0.8),
    "1x4": (1, 4, 0.8),
    "4x1": (4, 1, 0.8),
    "4:16": (1, 1, 0.0),
    "adaptive": (1, 1, 0.0),
}
DTYPES = ("F32", "F16", "BF16", "I8", "I4")
QUANTIZED = {"I8": "int-quantized", "I4": "pack-quantized"}


def _patterned(shape: tuple[int, int], pattern: str, random: np.random.Generator) -> np.ndarray:
    high, wide, zeros = PATTERNS[pattern]
    keep = random.random((shape[0] // high, shape[1] // wide)) >= zeros
    values = 0.1 * random.standard_normal(shape).astype(np.float32)
    values[values == 0] = 0.1
    if pattern in ("4:16", "adaptive"):
        tiles, windows = (-(-n // 16) for n in shape)
        kept = (
            np.full((tiles, windows), 4)
            if pattern == "4:16"
            else random.choice((0, 0, 0, 4, 4, 8, 12), (tiles, windows))
        )
        order = random.random((16 * tiles, windows, 16)).argsort(axis=2)
        where = (order < kept.repeat(16, axis=0)[..., None]).reshape(16 * tiles, 16 * windows)
        values[~where[: shape[0], : shape[1]]] = 0
    return np.asarray(values * keep.repeat(high, 0).repeat(wide, 1), np.float32)


def _stored(name: str, values: np.ndarray, dtype: str) -> dict[str, Tensor]:
    """A weight as a checkpoint of this dtype holds it."""
    if dtype not in QUANTIZED:
        return {name: as_dtype(values, dtype)}
    most = 127 if dtype == "I8" else 7
    scale = np.abs(values).max(axis=1, keepdims=True) / most + 1e-6
    codes = np.rint(values / scale).astype(np.int8)
    codes[(codes == 0) & (values != 0)] = 1  # what is kept stays kept
    if dtype == "I8":
        return {name: Tensor("I8", codes), f"{name}_scale": as_dtype(scale, "F32")}
    groups = np.repeat(scale, -(-values.shape[1] // 32), axis=1)
    return {
        f"{name}_packed": Tensor("I32", pack_nibbles(codes)),
        f"{name}_scale": as_dtype(groups, "BF16"),
        f"{name}_shape": Tensor("I64", np.array(values.shape)),
    }


def llama_checkpoint(path: Path, dtype: str, pattern: str) -> Path:
    """A Llama of one layer that runs, its linears in F32, F16, BF16, I8 or I4 with zeros in one of the PATTERNS."""
    random = np.random.default_rng(len(dtype) + len(pattern))
    plain = "BF16" if dtype in QUANTIZED else dtype
    tensors = {
        "model.embed_tokens.weight": as_dtype(_patterned((VOCABULARY, WIDTH), "dense", random), plain),
        "lm_head.weight": as_dtype(_patterned((VOCABULARY, WIDTH), "dense", random), plain),
    }
    for norm in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        tensors[f"{norm}.weight"] = as_dtype(np.ones(WIDTH, np.float32), plain)
    linears = {f"model.layers.0.{name}.weight": shape for name, shape in LINEARS.items()}
    for name, shape in linears.items():
        tensors |= _stored(name, _patterned(shape, pattern, random), dtype)
    config = dict(LLAMA)
    if dtype in QUANTIZED:
        size = {"strategy": "group", "group_size": 32} if dtype == "I4" else {"strategy": "channel"}
        weights = {"num_bits": int(dtype[1:]), "type": "int", "symmetric": True, **size}
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": QUANTIZED[dtype],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        }
    write_checkpoint(path, tensors, config)
    (path / "tokenizer.json").unlink()
    return path
