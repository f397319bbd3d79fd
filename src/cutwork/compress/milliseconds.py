"""What every candidate takes on this machine: milliseconds by the engine's cost model, and bytes.

A weight of random numbers is pruned, rounded, packed and laid out as that of a model would be, some rows of it; cost
and size grow with the rows. What is no linear (attention, norms) is measured once, on the dense model.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cutwork.compress.candidates import Candidate
from cutwork.engine.backend import native
from cutwork.engine.explain import profile_step
from cutwork.engine.model import Model
from cutwork.engine.weights.arrange import Arrangement
from cutwork.engine.weights.bind import make_weight
from cutwork.engine.weights.costs import have_measured, load_costs, measure_costs
from cutwork.pack.int4 import RUN_COLS, encode_int4, runs_of
from cutwork.pack.masked import encode
from cutwork.pack.record import EncodedWeight
from cutwork.pack.slots import in_slots
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of
from cutwork.store import bfloat16

Purpose = Literal["decode", "prefill", "batch16"]
TOKENS: dict[Purpose, int] = {"decode": 1, "prefill": 512, "batch16": 16}  # of a step
_CONTEXT = 256  # tokens that a decoded one attends to
_TIMES = 5  # that other ops are measured, of which the least counts
_ROWS = 256  # of the weights that are laid out


@dataclass(frozen=True)
class Price:
    """What one linear takes in one step, and in memory."""

    milliseconds: float
    nbytes: float


class Prices:
    """The prices of candidates for weights of any shape, for steps of a purpose with so many threads.

    Measures what kernels cost unless that was done before. Raises CutworkError without the native module.
    """

    def __init__(self, purpose: Purpose, threads: int = 0, group_size: int = 128) -> None:
        self.tokens, self.threads = TOKENS[purpose], threads or native().default_threads()
        self._costs = load_costs() if have_measured() else measure_costs()
        self._group_size = group_size
        self.of = cache(self._of)

    def _of(self, candidate: Candidate, rows: int, columns: int, head: bool = False) -> Price:
        """Of a linear [rows, columns]; a `head` gives logits of one token of a prompt."""
        stored = _example(candidate, min(rows, _ROWS), columns, self._group_size)
        part = rows / stored.shape[0]
        weight = make_weight("example", (stored.shape[0], columns), stored, native().Weight)
        if not (self.tokens > 1 and weight.reorder()):  # as the commands where much comes at once do
            weight = Arrangement.of({"example": stored}, self._costs, self.threads).apply("example", weight, stored)
        shape = (weight.encoding, weight.dtype, stored.shape[0], columns, weight.stored)
        tokens = 1 if head and self.tokens == TOKENS["prefill"] else self.tokens
        kernel = self._costs.choose(*shape, tokens, weight.reordered_bytes)
        seconds = self._costs.seconds(kernel, *shape, tokens, self.threads, weight.reordered_bytes)
        return Price(1e3 * part * seconds, part * (weight.nbytes + weight.reordered_bytes))


def other_milliseconds(model_dir: Path, purpose: Purpose, threads: int = 0) -> tuple[float, float]:
    """(milliseconds of a step's ops that are no linears, bytes of weights that are no linears of the blocks or head).

    Measured on the model as it is, the least of some times: what else the machine does meanwhile is not the model's.
    Raises CutworkError for what cannot be loaded.
    """
    tokens = TOKENS[purpose]
    with Model.load(model_dir, threads=threads, max_batch=1, max_context=_CONTEXT + max(TOKENS.values())) as model:
        context = 0 if purpose == "prefill" else min(_CONTEXT, model.max_context - tokens)
        tokens = min(tokens, model.max_context - context)
        profiles = [profile_step(model, tokens=tokens, context=context).ops for _ in range(_TIMES)]
        linears = {id(model.weights[name]) for op in profiles[0] for name in op.weights}
        others = {id(weight): weight.nbytes for weight in model.weights.values() if id(weight) not in linears}
        least = min(sum(op.seconds for op in ops if not op.weights) for ops in profiles)
        return 1e3 * least, float(sum(others.values()))


def _example(candidate: Candidate, rows: int, columns: int, group_size: int) -> EncodedWeight:
    """A packed random weight [rows, columns], as `pack` would store it."""
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    if candidate.sparsity:
        values *= candidate.as_pattern().keep(values.square(), torch.ones_like(values, dtype=torch.bool))
    if candidate.scheme is None:
        return encode(bfloat16.from_float32(values.numpy()))
    grid = grid_of(candidate.scheme, columns, group_size, torch.float32)
    rounded = rtn(values, grid)
    codes, scales = rounded.codes.numpy(), rounded.scales.numpy()
    if candidate.scheme == "w8a8":
        return in_slots(codes, encode(codes, np.ascontiguousarray(scales[:, 0])))
    return in_slots(codes, encode_int4(codes, bfloat16.from_float32(scales), grid.group or RUN_COLS * runs_of(columns)))
