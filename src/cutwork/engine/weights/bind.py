"""From stored weights to what an executor takes, every name and shape checked against the plan first."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np

from cutwork.architectures.architecture import HEAD, Architecture
from cutwork.engine.backend import TimedWeight, Weight, Weight_co, WeightType
from cutwork.engine.weights.arrange import Arrangement
from cutwork.errors import CutworkError
from cutwork.pack.decode import decode
from cutwork.pack.record import EncodedWeight
from cutwork.plan.builder import Derived, Plan
from cutwork.store import bfloat16


def bind(
    plans: Sequence[Plan],
    architecture: Architecture,
    stored: Mapping[str, EncodedWeight],
    kind: WeightType[Weight],
    threads: int = 1,
    reorder_weights: bool = False,
    arrangement: Arrangement | None = None,
) -> list[tuple[list[Weight], list[np.ndarray]]]:
    """(weights, vectors) of each plan in the order of its ids; `kind` is the class `Weight` of the chosen backend.

    Plans share the weights they have in common. Weights keep views of the stored arrays; vectors become float32. So
    many weights as `threads` are checked at a time, laid out as the `arrangement` of the native backend says, and with
    `reorder_weights` for many tokens too. Raises
    CutworkError naming a weight that is missing, has another shape than the config promises, holds what a kernel must
    not trust, or belongs to another architecture.
    """
    stored_names = {architecture.plan_name(name): name for name in stored}
    stored = {name: stored[original] for name, original in stored_names.items()}
    names = {name: name for plan in plans for name in plan.weights}
    if architecture.tied_if_missing and HEAD not in stored:
        names[HEAD] = architecture.embedding
    shapes = {names[name]: shape for plan in plans for name, shape in plan.weights.items()}
    derived = {name: value for plan in plans for name, value in plan.derived.items()}
    constants = {name: value for plan in plans for name, value in plan.constants.items()}

    def make(name: str) -> Weight:
        if name in constants:
            return kind.dense(constants[name])
        if name in derived:
            return kind.dense(_derive(derived[name], stored))
        source = arrangement.source(stored_names[name], stored[name]) if arrangement else stored[name]
        weight = make_weight(name, shapes[name], source, kind)
        try:
            reordered = reorder_weights and weight.reorder()
            if arrangement and not reordered:
                weight = cast(Weight, arrangement.apply(stored_names[name], cast(TimedWeight, weight)))
        except MemoryError as error:
            raise CutworkError(f"{error}") from None
        return weight

    needed = {*(set(names.values()) - set(constants)), *(name for plan in plans for name in _vector_sources(plan))}
    _check_names(needed, stored, architecture)
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


def _vector_sources(plan: Plan) -> set[str]:
    """The stored tensors that a plan's vectors come from."""
    names = set(plan.vectors) - set(plan.constants) - set(plan.derived)
    return names | {derived.source for derived in plan.derived.values()}


def _check_names(needed: set[str], stored: Mapping[str, EncodedWeight], architecture: Architecture) -> None:
    for name in sorted(needed - set(stored)):
        raise CutworkError(f"weight '{name}' is missing from the model; the checkpoint is incomplete")
    for name in sorted(set(stored) - needed):
        if not architecture.leaves_out(name):
            raise CutworkError(f"weight '{name}' does not belong to this architecture, so the model would run wrong")


def make_weight(name: str, shape: tuple[int, int], weight: EncodedWeight, kind: WeightType[Weight_co]) -> Weight_co:
    """A weight of the backend's class `kind` over the stored arrays; raises CutworkError naming it, as `bind` does."""
    _check_shape(name, shape, weight)
    try:
        if weight.encoding == "slots":
            assert weight.scale is not None
            return kind.slots(*shape, weight.values, weight.scale, weight.keep, weight.steps, weight.group)
        if weight.dtype == "i4":
            assert weight.scale is not None
            return kind.int4(*shape, weight.values, weight.scale, weight.group, weight.mask, weight.offsets)
        if weight.encoding == "dense":
            return kind.dense(weight.values, weight.scale)
        assert weight.mask is not None and weight.offsets is not None
        return kind.masked(weight.encoding, *shape, weight.values, weight.mask, weight.offsets, weight.scale)
    except ValueError as error:
        raise CutworkError(f"weight '{name}' is damaged: {error}; get or pack the model again") from None


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
    return floats_of(name, weight)


def floats_of(name: str, weight: EncodedWeight) -> np.ndarray:
    """A stored weight as float32. Raises CutworkError, naming it, if it is quantised."""
    if weight.scale is not None:
        raise CutworkError(f"weight '{name}' is quantised, but this engine reads it as floats; leave it unquantised")
    return np.ascontiguousarray(bfloat16.in_float32(decode(weight)))


def _check_shape(name: str, shape: tuple[int, ...], weight: EncodedWeight) -> None:
    if tuple(weight.shape) != shape:
        raise CutworkError(f"weight '{name}' has shape {list(weight.shape)}, but config.json promises {list(shape)}")
