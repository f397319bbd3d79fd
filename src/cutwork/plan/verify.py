"""What a builder of plans must keep to, checked before anything runs one.

Whether every width and length fits is for the native executor to judge, which trusts no plan (`native/runtime`).
"""

import math
from collections.abc import Sequence

from cutwork.plan.builder import Plan
from cutwork.plan.layout import Span, lifetimes
from cutwork.plan.ops import ACTIVATIONS, NONE, KvAppend, Logits, Op, Output


def verify(plan: Plan, spans: Sequence[Span] | None = None) -> None:
    """Check every op of a plan by the roles of its fields, and the layout `spans` if given.

    The plan of an encoder with a decoder ends with the keys and values it leaves for that. Raises ValueError naming the
    op for an id out of range, a buffer read before it is written or overwritten while alive, a number that is not
    finite, an unknown activation, or another plan that does not end with its one `logits` or `output`.
    """
    results = [index for index, op in enumerate(plan.ops) if isinstance(op, Logits | Output)]
    encodes = not results and plan.ops and isinstance(plan.ops[-1], KvAppend)
    if results != [len(plan.ops) - 1] and not encodes:
        raise ValueError("a plan must end with its one logits or output op")
    written: set[int] = set()
    for index, op in enumerate(plan.ops):
        problem = _problem(plan, op, written)
        if problem:
            raise ValueError(f"op {index} ({op.kind}): {problem}")
        written.update(op.writes)
    _no_overlap(plan, plan.spans() if spans is None else spans)


def _problem(plan: Plan, op: Op, written: set[int]) -> str:
    """What is wrong with an op that comes after those which have `written` buffers; nothing if all is well."""
    counts = {"buffer": len(plan.buffers), "weight": len(plan.weights), "vector": len(plan.vectors)}
    for name, role in op.roles().items():
        value = getattr(op, name)
        for item in value if isinstance(value, list) else [value]:
            pointed = next((kind for kind in counts if kind in role), None)
            if pointed and not 0 <= item < counts[pointed] and not (item == NONE and "optional" in role):
                return f"there is no {pointed} {item} for {name}"
            if role == "number" and not math.isfinite(item):
                return f"{name} is {item}"
            if "activation" in role and item not in (*ACTIVATIONS, *(["none"] if "optional" in role else [])):
                return f"unknown activation {item!r}"
    for buffer in op.reads:
        if buffer not in written:
            return f"buffer {buffer} is read before it is written"
    for buffer in op.writes:
        if buffer in written:
            return f"buffer {buffer} is written twice"
    return ""


def _no_overlap(plan: Plan, spans: Sequence[Span]) -> None:
    """Buffers that are alive at the same time must lie apart."""
    if [(width, rows) for _, width, rows in spans] != [(buffer.width, buffer.rows) for buffer in plan.buffers]:
        raise ValueError("the layout's widths differ from the plan's buffers")
    alive = lifetimes(len(spans), plan.ops)
    order = sorted(range(len(spans)), key=lambda i: alive[i])
    current: list[int] = []
    for index in order:
        current = [other for other in current if alive[other][1] >= alive[index][0]]
        offset, width, _ = spans[index]
        for other in current:
            low, high = spans[other][0], spans[other][0] + spans[other][1]
            if offset < 0 or (offset < high and low < offset + width):
                raise ValueError(f"buffers {index} and {other} overlap in the arena")
        current.append(index)
