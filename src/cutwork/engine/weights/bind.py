"""From stored weights to what an executor takes, every name and shape checked against the plan first."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cutwork.errors import CutworkError
from cutwork.pack.encodings import EncodedWeight
from cutwork.plan.builder import Derived, Plan

_ON_DISK = {"embed_out.weight": "lm_head.weight"}  # what checkpoints of GPT-NeoX call the output head
_GPT2 = ("h.", "wte.", "wpe.", "ln_f.")  # OpenAI's own checkpoints are of the inner model only
_TIED = {"lm_head.weight": "shared.weight"}  # T5's configs do not tell whether its head is tied: what is stored does


def bind(
    plans: Sequence[Plan],
    stored: Mapping[str, EncodedWeight],
    kind: Any,
    threads: int = 1,
    reorder_weights: bool = False,
) -> list[tuple[list[Any], list[np.ndarray]]]:
    """(weights, vectors) of each plan in the order of its ids; `kind` is the class `Weight` of the chosen backend.

    Plans share the weights they have in common. Weights keep views of the stored arrays; vectors become float32. So
    many weights as `threads` are checked at a time, and with `reorder_weights` laid out for many tokens too. Raises
    CutworkError naming a weight that is missing, has another shape than the config promises, holds what a kernel must
    not trust, or belongs to another architecture.
    """
    stored = {_on_disk(name): weight for name, weight in stored.items()}
    names = {name: _TIED.get(name, name) if name not in stored else name for plan in plans for name in plan.weights}
    shapes = {names[name]: shape for plan in plans for name, shape in plan.weights.items()}
    derived = {name: value for plan in plans for name, value in plan.derived.items()}

    def make(name: str) -> Any:
        if name in derived:
            return kind.dense(_derive(derived[name], stored))
        weight = make_weight(name, shapes[name], stored[name], kind)
        if reorder_weights:
            _reorder(weight)
        return weight

    _check_names({*names.values(), *(name for plan in plans for name in _vector_sources(plan))}, stored)
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(make, shapes)
        weights = dict(zip(shapes, made, strict=True))
    return [
        (
            [weights[names[name]] for name in plan.weights],
            [_vector(plan, name, length, stored) for name, length in plan.vectors.items()],
        )
        for plan in plans
    ]


def _on_disk(name: str) -> str:
    """The name that a plan knows a stored tensor by."""
    return f"transformer.{name}" if name.startswith(_GPT2) else _ON_DISK.get(name, name)


def _vector_sources(plan: Plan) -> set[str]:
    """The stored tensors that a plan's vectors come from."""
    names = set(plan.vectors) - set(plan.constants) - set(plan.derived)
    return names | {derived.source for derived in plan.derived.values()}


def _check_names(needed: set[str], stored: Mapping[str, EncodedWeight]) -> None:
    for name in sorted(needed - set(stored)):
        raise CutworkError(f"weight '{name}' is missing from the model; the checkpoint is incomplete")
    for name in sorted(set(stored) - needed):
        if not _harmless(name):
            raise CutworkError(f"weight '{name}' does not belong to this architecture, so the model would run wrong")


def _harmless(name: str) -> bool:
    """Weights that checkpoints carry although the forward pass does not read them."""
    unread = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias", ".attn.bias", ".attn.masked_bias")
    copies = ("lm_head.weight", "proj_out.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return name.endswith((*unread, ".EncDecAttention.relative_attention_bias.weight")) or name in copies


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


def _reorder(weight: Any) -> None:
    try:
        weight.reorder()
    except MemoryError as error:
        raise CutworkError(f"{error}") from None


def _vector(plan: Plan, name: str, length: int, stored: Mapping[str, EncodedWeight]) -> np.ndarray:
    if name in plan.constants:
        return plan.constants[name]
    derived = plan.derived.get(name)
    if derived is None:
        return _floats(name, (length,), stored[name])
    return _derive(derived, stored)


def _derive(derived: Derived, stored: Mapping[str, EncodedWeight]) -> np.ndarray:
    return derived.compute(_floats(derived.source, derived.shape, stored[derived.source]))


def _floats(name: str, shape: tuple[int, ...], weight: EncodedWeight) -> np.ndarray:
    _check_shape(name, shape, weight)
    if weight.scale is not None:
        raise CutworkError(f"weight '{name}' is quantised, but this engine reads it as floats; leave it unquantised")
    values = weight.decode()
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, np.float32)


def _check_shape(name: str, shape: tuple[int, ...], weight: EncodedWeight) -> None:
    if tuple(weight.shape) != shape:
        raise CutworkError(f"weight '{name}' has shape {list(weight.shape)}, but config.json promises {list(shape)}")
