"""Proves that a plan stays inside its buffers, weights and cache before anything runs it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cutwork.engine.layout import Span, lifetimes, reads, writes
from cutwork.engine.plan import Plan

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


def verify(plan: Plan, spans: Sequence[Span] | None = None) -> None:
    """Check every op of a plan, and the layout `spans` if given.

    An encoder's plan ends with the keys and values it leaves for its decoder. Raises ValueError naming the op for an id
    out of range, a width or length that does not fit, a buffer read before it is written or overwritten while alive, a
    number that is not finite, or another plan that does not end with its one `logits`.
    """
    logits = [index for index, op in enumerate(plan.ops) if op["kind"] == "logits"]
    encodes = not logits and plan.ops and plan.ops[-1]["kind"] == "kv_append"
    if logits != [len(plan.ops) - 1] and not encodes:
        raise ValueError("a plan must end with its one logits op")
    checker = _Checker(plan)
    for index, op in enumerate(plan.ops):
        try:
            checker.check(op)
        except (AssertionError, KeyError, TypeError) as error:
            raise ValueError(f"op {index} ({op.get('kind')}): {error}") from None
    _no_overlap(plan, plan.spans() if spans is None else spans)


class _Checker:
    """The checks of each kind of op; remembers which buffers have been written."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.weights = list(plan.weights.values())
        self.vectors = list(plan.vectors.values())
        self.written: set[int] = set()
        self.appended: set[int] = set()

    def check(self, op: Mapping[str, Any]) -> None:
        kinds: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "embed": self._embed,
            "input": self._input,
            "add_positions": self._add_positions,
            "unfold": self._unfold,
            "rms_norm": self._rms_norm,
            "layer_norm": self._layer_norm,
            "slice": self._slice,
            "add": self._add,
            "clip": self._clip,
            "linear": self._linear,
            "rope": self._rope,
            "kv_append": self._kv_append,
            "attention": self._attention,
            "self_attention": self._self_attention,
            "cross_attention": self._cross_attention,
            "gated": self._gated,
            "gather_rows": self._gather_rows,
            "logits": self._logits,
        }
        _expect(op["kind"] in kinds, f"unknown kind {op['kind']!r}")
        for buffer in (*reads(op), *writes(op)):
            _expect(isinstance(buffer, int) and 0 <= buffer < len(self.plan.buffers), f"no buffer {buffer}")
        for buffer in reads(op):
            _expect(buffer in self.written, f"buffer {buffer} is read before it is written")
        for buffer in writes(op):
            _expect(buffer not in self.written, f"buffer {buffer} is written twice")
        for key, value in op.items():
            _expect(not isinstance(value, float) or math.isfinite(value), f"{key} is {value}")
        kinds[op["kind"]](op)
        self.written.update(writes(op))

    def _embed(self, op: Mapping[str, Any]) -> None:
        _expect(self._shape(op["weight"])[1] == self._width(op["out"]), "width differs from the weight's")
        _expect(self._rows(op["out"]) == "T", "an embedding has one row per token")

    def _input(self, op: Mapping[str, Any]) -> None:
        _expect(self._rows(op["out"]) == "T", "the input has one row per token")

    def _add_positions(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["out"])
        _expect(self._rows(op["x"]) == "T", "positions are per token")
        _expect(self._shape(op["weight"])[1] == self._width(op["x"]), "width differs from the weight's")

    def _unfold(self, op: Mapping[str, Any]) -> None:
        _expect(len(op["xs"]) == len(op["shifts"]) > 0, "xs and shifts differ")
        _expect(all(self._rows(buffer) == "T" for buffer in (*op["xs"], op["out"])), "rows")
        _expect(sum(self._width(x) for x in op["xs"]) == self._width(op["out"]), "widths do not add up")

    def _rms_norm(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["out"])
        _expect(op["groups"] >= 1 and self._width(op["x"]) == op["groups"] * self._length(op["weight"]), "groups")
        _expect(op["eps"] >= 0, "eps is negative")

    def _layer_norm(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["out"])
        for vector in (op["weight"], *([op["bias"]] if op["bias"] != -1 else [])):
            _expect(self._length(vector) == self._width(op["x"]), "weight or bias length")
        _expect(op["eps"] >= 0, "eps is negative")

    def _slice(self, op: Mapping[str, Any]) -> None:
        width = self._width(op["out"])
        _expect(op["pieces"] >= 1 and width % op["pieces"] == 0, "pieces do not divide the width")
        piece = width // op["pieces"]
        _expect(op["first"] >= 0 and op["stride"] >= piece, "pieces overlap")
        _expect(op["first"] + (op["pieces"] - 1) * op["stride"] + piece <= self._width(op["x"]), "beyond the input")
        _expect(self._rows(op["x"]) == self._rows(op["out"]), "rows")

    def _add(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["y"])
        self._same(op["x"], op["out"])

    def _clip(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["out"])
        _expect(op["limit"] >= 0, "limit is negative")

    def _linear(self, op: Mapping[str, Any]) -> None:
        _expect(len(op["outs"]) == len(op["weights"]) == len(op["biases"]) > 0, "outs, weights and biases differ")
        _expect(op["activation"] in ("none", *ACTIVATIONS), f"unknown activation {op['activation']!r}")
        for out, weight, bias in zip(op["outs"], op["weights"], op["biases"], strict=True):
            _expect(self._shape(weight) == (self._width(out), self._width(op["x"])), "weight shape")
            _expect(bias == -1 or self._length(bias) == self._width(out), "bias length")
            _expect(self._rows(out) == self._rows(op["x"]), "rows")
            if op["residual"] != -1:
                self._same(op["residual"], out)

    def _rope(self, op: Mapping[str, Any]) -> None:
        self._same(op["x"], op["out"])
        _expect(self._width(op["x"]) == op["heads"] * op["head_dim"], "width is not heads x head_dim")
        _expect(2 * self._length(op["inv_freq"]) <= op["head_dim"], "rotary dimension exceeds the head")
        _expect(self._rows(op["x"]) == "T", "positions are per token")

    def _kv_append(self, op: Mapping[str, Any]) -> None:
        self._same(op["k"], op["v"])
        _expect(self._width(op["k"]) == self.plan.kv_heads * self.plan.head_dim, "width is not the cache's")
        _expect(0 <= op["cache"] < self.plan.cache_layers and op["cache"] not in self.appended, "cache layer")
        _expect(self._rows(op["k"]) == "T", "keys are per token")
        self.appended.add(op["cache"])

    def _attention(self, op: Mapping[str, Any]) -> None:
        self._same(op["q"], op["out"])
        _expect(self._rows(op["q"]) == "T", "queries are per token")
        _expect(op["cache"] in self.appended, "attends to a cache layer nothing was appended to")
        _expect(op["kv_heads"] == self.plan.kv_heads and op["head_dim"] == self.plan.head_dim, "heads")
        _expect(op["heads"] > 0 and op["heads"] % op["kv_heads"] == 0, "heads are not a multiple of kv_heads")
        _expect(self._width(op["q"]) == op["heads"] * op["head_dim"], "width is not heads x head_dim")
        _expect(op["window"] == -1 or op["window"] >= 1, "window")
        _expect(op["slopes"] == -1 or self._length(op["slopes"]) == op["heads"], "slopes")
        _expect(op["bias"] == -1 or self._length(op["bias"]) % op["heads"] == 0, "bias")

    def _self_attention(self, op: Mapping[str, Any]) -> None:
        for buffer in (op["k"], op["v"], op["out"]):
            self._same(op["q"], buffer)
        _expect(self._rows(op["q"]) == "T", "queries are per token")
        _expect(op["heads"] > 0 and self._width(op["q"]) == op["heads"] * op["head_dim"], "heads")
        _expect(op["bias"] == -1 or self._length(op["bias"]) % (2 * op["heads"]) == op["heads"], "bias")

    def _cross_attention(self, op: Mapping[str, Any]) -> None:
        self._same(op["q"], op["out"])
        _expect(self._rows(op["q"]) == "T", "queries are per token")
        _expect(0 <= op["cache"] < self.plan.memory_layers, "memory layer")
        _expect(op["heads"] > 0 and op["heads"] % op["kv_heads"] == 0, "heads are not a multiple of kv_heads")
        _expect(self._width(op["q"]) == op["heads"] * op["head_dim"], "width is not heads x head_dim")

    def _gated(self, op: Mapping[str, Any]) -> None:
        self._same(op["gate"], op["up"])
        self._same(op["gate"], op["out"])
        _expect(op["activation"] in ACTIVATIONS, f"unknown activation {op['activation']!r}")

    def _gather_rows(self, op: Mapping[str, Any]) -> None:
        _expect(self._width(op["x"]) == self._width(op["out"]), "widths differ")
        _expect((self._rows(op["x"]), self._rows(op["out"])) == ("T", "R"), "rows")

    def _logits(self, op: Mapping[str, Any]) -> None:
        _expect(self._rows(op["x"]) == "R", "logits need gathered rows")
        _expect(self._shape(op["weight"]) == (self.plan.vocabulary, self._width(op["x"])), "weight shape")
        _expect(op["bias"] == -1 or self._length(op["bias"]) == self.plan.vocabulary, "bias length")

    def _width(self, buffer: int) -> int:
        return self.plan.buffers[buffer].width

    def _rows(self, buffer: int) -> str:
        return self.plan.buffers[buffer].rows

    def _same(self, a: int, b: int) -> None:
        _expect(self._width(a) == self._width(b) and self._rows(a) == self._rows(b), f"buffers {a} and {b} differ")

    def _shape(self, weight: int) -> tuple[int, int]:
        _expect(0 <= weight < len(self.weights), f"no weight {weight}")
        return self.weights[weight]

    def _length(self, vector: int) -> int:
        _expect(0 <= vector < len(self.vectors), f"no vector {vector}")
        return self.vectors[vector]


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


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
