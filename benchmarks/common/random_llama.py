"""Random Llamas of any shape, the same numbers in every form: Hugging Face's checkpoints and packed models.

Speed does not depend on what the weights are, only on how many are zero; equal weights let outputs be compared. One
tensor is made at a time, whenever it is needed, so that models larger than memory can be written.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, models

from benchmarks.common.shapes import Shape
from cutwork.pack.int4 import encode_int4
from cutwork.pack.masked import encode
from cutwork.pack.pack import PackWriter
from cutwork.pack.record import EncodedWeight
from cutwork.pack.slots import in_slots
from cutwork.store import bfloat16
from cutwork.store.compressed_tensors import Group, description
from cutwork.store.output import output_directory
from cutwork.store.packed_codes import pack_nibbles
from cutwork.store.safetensors import SafetensorsWriter

DType = Literal["f32", "bf16", "int8", "int4"]
INT4_GROUP = 128
_QUANTIZED = {"int8": Group(["Linear"], 8), "int4": Group(["Linear"], 4, INT4_GROUP)}
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


def prune(values: np.ndarray, sparsity: float, keep: int = 0, *, uneven: bool = False) -> np.ndarray:
    """The smallest set to zero: a fraction of all, or all but `keep` of every 16 neighbours.

    With `uneven` rows matter by factors whose logarithms have a standard deviation of 0.25, and lose fewer or more.
    """
    if keep:
        pruned = values.reshape(len(values), -1, 16).copy()
        smallest = np.argpartition(np.abs(pruned), 16 - keep, axis=2)[:, :, : 16 - keep]
        np.put_along_axis(pruned, smallest, np.float32(0), axis=2)
        return pruned.reshape(values.shape)
    if not sparsity:
        return values
    magnitudes = np.abs(values)
    if uneven:
        magnitudes *= np.exp(0.25 * np.random.default_rng(len(values)).standard_normal((len(values), 1), np.float32))
    threshold = np.quantile(magnitudes.ravel()[::17], sparsity)
    return np.where(magnitudes < threshold, np.float32(0), values)


def round_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [rows, cols] and a float32 scale for each row, 1 for one of zeros."""
    largest = np.abs(values).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    return np.rint(values / scale[:, None]).astype(np.int8), scale


def round_int4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 [rows, cols] between -7 and 7 and float32 scales [rows, groups of 128]."""
    groups = values.reshape(len(values), -1, INT4_GROUP)
    steps = np.maximum(np.abs(groups).max(axis=2), np.float32(1e-30)) / np.float32(7)
    return np.rint(groups / steps[:, :, None]).astype(np.int8).reshape(values.shape), steps


def write_checkpoint(path: Path, shape: Shape, dtype: DType = "bf16", sparsity: float = 0.0) -> None:
    """A Hugging Face directory: bfloat16, or W8A8 (int8) or W4A16 (int4) as compressed-tensors; dense head.

    It has a tokenizer of made-up words, because converters insist on one.
    """
    with output_directory(path) as partial:
        (partial / "config.json").write_text(json.dumps(shape.config | _quantization(dtype), indent=1))
        generation = {"bos_token_id": 1, "eos_token_id": 2}
        (partial / "generation_config.json").write_text(json.dumps(generation))
        words = {f"t{i}": i for i in range(shape.vocabulary)}
        Tokenizer(models.WordLevel(words, "t0")).save(str(partial / "tokenizer.json"))
        special = {"bos_token": "t1", "eos_token": "t2", "unk_token": "t0"}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        (partial / "tokenizer_config.json").write_text(json.dumps(settings))
        with SafetensorsWriter(partial, 25 * shape.layers + 3) as writer:
            for name, _, values in tensors(shape):
                if is_pruned(name):
                    _add(writer, name, prune(values, sparsity), dtype)
                else:
                    writer.add(name, "BF16", bfloat16.from_float32(values))


def write_packed(
    path: Path,
    shape: Shape,
    dtype: DType,
    sparsity: float,
    keep: int = 0,
    *,
    uneven: bool = False,
    layers_alike: bool = False,
    int4_head: bool = False,
) -> None:
    """Blocks of that dtype with zeros (`prune`); the embedding is bfloat16, the head dense.

    With `layers_alike` all have the weights of the first, which is as fast to run and much faster to write. The head is
    int8 where the blocks are int4, unless it should be int4 too.
    """
    with output_directory(path) as partial, PackWriter(partial, shape.config, 9 * shape.layers + 3) as writer:
        for name, _, values in tensors(replace(shape, layers=1) if layers_alike else shape):
            kind: DType = "int8" if (dtype, name) == ("int4", HEAD) and not int4_head else dtype
            pruned = prune(values, sparsity, keep, uneven=uneven) if is_pruned(name) else values
            weight = _encode(name, pruned, kind)
            for each in in_layers(name, shape.layers) if layers_alike else [name]:
                writer.add(each, weight)


def in_layers(name: str, layers: int) -> list[str]:
    """A tensor of the first layer by its name in each, in either naming; of another tensor its own name."""
    head, number, tail = name.partition(".0.")
    return [f"{head}.{layer}.{tail}" for layer in range(layers)] if number else [name]


def _encode(name: str, values: np.ndarray, dtype: DType) -> EncodedWeight:
    if values.ndim == 1:
        return encode(values.astype(np.float32))
    if name == EMBEDDING:
        return encode(bfloat16.from_float32(values))
    if dtype == "int4":
        codes, steps = round_int4(values)
        return in_slots(codes, encode_int4(codes, steps.astype(np.float16), INT4_GROUP))
    if dtype == "int8":
        codes, scale = round_int8(values)
        return in_slots(codes, encode(codes, scale))
    return encode(values if dtype == "f32" else bfloat16.from_float32(values))


def _add(writer: SafetensorsWriter, name: str, values: np.ndarray, dtype: DType) -> None:
    if dtype == "int8":
        codes, scale = round_int8(values)
        writer.add(name, "I8", codes)
        writer.add(f"{name}_scale", "F32", scale[:, None])
    elif dtype == "int4":
        codes, steps = round_int4(values)
        writer.add(f"{name}_packed", "I32", pack_nibbles(codes))
        writer.add(f"{name}_shape", "I64", np.asarray(values.shape, np.int64))
        writer.add(f"{name}_scale", "F32", steps)
    else:
        writer.add(name, "BF16", bfloat16.from_float32(values))


def _quantization(dtype: DType) -> dict[str, Any]:
    if dtype not in _QUANTIZED:
        return {}
    return {"quantization_config": description([_QUANTIZED[dtype]], [HEAD.removesuffix(".weight")])}


def some_tokens(count: int, vocabulary: int, *seed: int) -> list[int]:
    """Ids of a random text, none of the first three, which are special. Texts of other lengths begin differently."""
    return [int(token) for token in np.random.default_rng([count, *seed]).integers(3, vocabulary, count)]
