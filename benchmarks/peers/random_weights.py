"""The random weights themselves. Every engine gets the same: bfloat16 numbers, made again whenever they are needed.

Speed does not depend on what the weights are, only on how many are zero; equal weights let the outputs be compared.
"""

from collections.abc import Iterator

import numpy as np
from shapes import Shape

from cutwork.pack import bfloat16

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def tensors(shape: Shape) -> Iterator[tuple[str, str, np.ndarray]]:
    """(Hugging Face name, GGUF name, float32 values), one at a time and always the same; a layer's norms come first."""
    todo: list[tuple[str, str, tuple[int, ...]]] = [
        (EMBEDDING, "token_embd.weight", (shape.vocabulary, shape.hidden)),
    ]
    for layer in range(shape.layers):
        for name, short in _NORMS.items():
            todo.append((f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{short}.weight", (shape.hidden,)))
        for name, (short, rows, cols) in shape.matrices.items():
            todo.append((f"model.layers.{layer}.{name}.weight", f"blk.{layer}.{short}.weight", (rows, cols)))
    todo += [
        (FINAL_NORM, "output_norm.weight", (shape.hidden,)),
        (HEAD, "output.weight", (shape.vocabulary, shape.hidden)),
    ]
    for seed, (name, short, size) in enumerate(todo):
        values = np.random.default_rng(seed).standard_normal(size, np.float32)
        values = 1 + np.float32(0.1) * values if len(size) == 1 else values * np.float32(size[1] ** -0.5)
        yield name, short, bfloat16.to_float32(bfloat16.from_float32(values))


def is_pruned(name: str) -> bool:
    """Whether a sparse model has zeros here: in the matrices of its blocks."""
    return name.endswith("_proj.weight")


def prune(values: np.ndarray, sparsity: float) -> np.ndarray:
    """The smallest set to zero."""
    if not sparsity:
        return values
    magnitudes = np.abs(values)
    threshold = np.quantile(magnitudes.ravel()[::17], sparsity)
    return np.where(magnitudes < threshold, np.float32(0), values)


def some_tokens(count: int, vocabulary: int, *seed: int) -> list[int]:
    """Ids of a random text, none of the first three, which are special. Texts of other lengths begin differently."""
    return [int(token) for token in np.random.default_rng([count, *seed]).integers(3, vocabulary, count)]
