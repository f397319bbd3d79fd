"""What the logits should be: the model in NumPy, float32, one layer in memory at a time, for all sparsities at once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.random_llama import EMBEDDING, FINAL_NORM, HEAD, is_pruned, prune, some_tokens, tensors
from benchmarks.common.shapes import EPS, ROPE_THETA, Shape

TOKENS = 24


def prompt(shape: Shape) -> list[int]:
    """The text whose next-token logits are compared."""
    return some_tokens(TOKENS, shape.vocabulary)


def reference_logits(shape: Shape, sparsities: Sequence[float], cache: Path) -> dict[float, np.ndarray]:
    """Sparsity -> float32 [vocabulary], the logits after `prompt`; kept in a file beside the models."""
    tokens = prompt(shape)
    if cache.exists():
        with np.load(cache) as file:
            same = file["tokens"].tolist() == tokens if "tokens" in file else False
            found = {float(key): file[key] for key in file.files if key != "tokens"} if same else {}
        if set(sparsities) <= set(found):
            return found
    logits = _forward(shape, sparsities)
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}.partial.npz")
    np.savez(partial, tokens=tokens, **{str(sparsity): values for sparsity, values in logits.items()})
    partial.rename(cache)
    return logits


def _forward(shape: Shape, sparsities: Sequence[float]) -> dict[float, np.ndarray]:
    states: dict[float, np.ndarray] = {}
    layer: dict[str, np.ndarray] = {}
    for name, _, values in tensors(shape):
        if name == EMBEDDING:
            states = {sparsity: values[prompt(shape)] for sparsity in sparsities}
        elif name == FINAL_NORM:
            states = {sparsity: _rms_norm(x, values) for sparsity, x in states.items()}
        elif name == HEAD:
            return {sparsity: values @ x[-1] for sparsity, x in states.items()}
        else:
            layer[name.split(".", 3)[3].removesuffix(".weight")] = values
            if name.endswith("down_proj.weight"):
                states = {sparsity: _layer(shape, layer, x, sparsity) for sparsity, x in states.items()}
                layer = {}
    raise AssertionError("the head comes last")


def _layer(shape: Shape, dense: dict[str, np.ndarray], x: np.ndarray, sparsity: float) -> np.ndarray:
    w = {name: prune(v, sparsity) if is_pruned(f"{name}.weight") else v for name, v in dense.items()}
    h = _rms_norm(x, w["input_layernorm"])
    q, k, v = (_heads(h @ w[f"self_attn.{n}_proj"].T, shape.head_dim) for n in "qkv")
    q, k = _rope(q), _rope(k)
    k, v = (np.repeat(part, shape.heads // shape.kv_heads, axis=0) for part in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(np.float32(shape.head_dim))
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    x = x + (weights @ v).swapaxes(0, 1).reshape(len(x), -1) @ w["self_attn.o_proj"].T
    h = _rms_norm(x, w["post_attention_layernorm"])
    gate = h @ w["mlp.gate_proj"].T
    return x + (gate / (1 + np.exp(-gate)) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T


def _rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS)


def _heads(x: np.ndarray, head_dim: int) -> np.ndarray:
    return x.reshape(len(x), -1, head_dim).swapaxes(0, 1)


def _rope(x: np.ndarray) -> np.ndarray:
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), ROPE_THETA ** (-np.arange(half) / half)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    left, right = x[..., :half], x[..., half:]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
