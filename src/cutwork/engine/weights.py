"""From stored weights to what an executor takes, every name and shape checked against the plan first."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cutwork.engine.plan import Plan
from cutwork.errors import CutworkError
from cutwork.pack.encodings import EncodedWeight

_ON_DISK = {"embed_out.weight": "lm_head.weight"}  # what checkpoints of GPT-NeoX call the output head


def bind(
    plan: Plan, stored: Mapping[str, EncodedWeight], kind: Any, threads: int = 1
) -> tuple[list[Any], list[np.ndarray]]:
    """(weights, vectors) in the order of the plan's ids; `kind` is the class `Weight` of the chosen backend.

    Weights keep views of the stored arrays; vectors become float32. So many weights as `threads` are checked at a time.
    Raises CutworkError naming a weight that is missing, has another shape than the config promises, holds what a kernel
    must not trust, or belongs to another architecture.
    """
    stored = {_ON_DISK.get(name, name): weight for name, weight in stored.items()}
    _check_names(plan, stored)
    with ThreadPoolExecutor(threads) as pool:
        weights = list(pool.map(lambda name: make_weight(name, plan.weights[name], stored[name], kind), plan.weights))
    vectors = [
        plan.constants[name] if name in plan.constants else _vector(name, length, stored[name])
        for name, length in plan.vectors.items()
    ]
    return weights, vectors


def _check_names(plan: Plan, stored: Mapping[str, EncodedWeight]) -> None:
    needed = {*plan.weights, *plan.vectors} - set(plan.constants)
    for name in sorted(needed - set(stored)):
        raise CutworkError(f"weight '{name}' is missing from the model; the checkpoint is incomplete")
    for name in sorted(set(stored) - needed):
        if not _harmless(name):
            raise CutworkError(f"weight '{name}' does not belong to this architecture, so the model would run wrong")


def _harmless(name: str) -> bool:
    """Weights that checkpoints carry although the forward pass does not read them."""
    unread = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
    return name.endswith(unread) or name == "lm_head.weight"


def make_weight(name: str, shape: tuple[int, int], weight: EncodedWeight, kind: Any) -> Any:
    """A weight of the backend's class `kind` over the stored arrays; raises CutworkError naming it, as `bind` does."""
    _check_shape(name, shape, weight)
    try:
        if weight.dtype == "i4":
            return kind.int4(*shape, weight.values, weight.scale, weight.group, weight.mask, weight.offsets)
        if weight.encoding == "dense":
            return kind.dense(weight.values, weight.scale)
        make = {"bitmask": kind.bitmask, "block1x4": kind.block1x4, "block4x1": kind.block4x1}[weight.encoding]
        return make(*shape, weight.values, weight.mask, weight.offsets, weight.scale)
    except ValueError as error:
        raise CutworkError(f"weight '{name}' is damaged: {error}; get or pack the model again") from None


def _vector(name: str, length: int, weight: EncodedWeight) -> np.ndarray:
    _check_shape(name, (length,), weight)
    values = weight.decode()
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, np.float32)


def _check_shape(name: str, shape: tuple[int, ...], weight: EncodedWeight) -> None:
    if tuple(weight.shape) != shape:
        raise CutworkError(f"weight '{name}' has shape {list(weight.shape)}, but config.json promises {list(shape)}")
