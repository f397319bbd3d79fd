"""Small checkpoints for the tests of packing, written without torch."""

import json
from pathlib import Path

import numpy as np

from cutwork.pack import bfloat16
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
