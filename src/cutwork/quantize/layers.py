"""Quantising a model's linears one by one, with a record of what each lost."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.magnitude import magnitude
from cutwork.prune.pattern import Unstructured
from cutwork.prune.second_order import output_error
from cutwork.quantize.gptq import gptq
from cutwork.quantize.grid import Grid, Quantized
from cutwork.quantize.joint import prune_and_quantize
from cutwork.quantize.rtn import rtn
from cutwork.torch_models.blocks import out_in
from cutwork.tune.masks import LostZerosError


@dataclass
class Layers:
    """The quantised linears so far, by name, and the report on each."""

    grids: Mapping[str, Grid]
    results: dict[str, Quantized] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)

    def round(self, linears: Mapping[str, nn.Module], scales: Mapping[str, Tensor] | None = None) -> None:
        """Round the weights of linears to nearest, by their own scales or by those given for each."""
        for name, linear in linears.items():
            start, weight = time.perf_counter(), out_in(linear).float()
            grid = self.grids[name]
            self._record(name, weight, grid.nearest(weight, scales[name]) if scales else rtn(weight, grid), start)

    def feed_back(self, linears: Mapping[str, nn.Module], statistics: Hessian, sparsity: float = 0.0) -> None:
        """Quantise linears that share their input by GPTQ, pruning them in the same pass if `sparsity` is not 0.

        What their codes stand for is left in them, so that the blocks behind are calibrated with what they will see.
        """
        hessian = statistics.matrix
        for name, linear in linears.items():
            start, weight = time.perf_counter(), out_in(linear).float()
            try:
                result, nearest = _quantized(weight, statistics, self.grids[name], sparsity)
            except CutworkError as error:
                raise CutworkError(f"{', '.join(linears)}: {error}") from None
            damping = statistics.applied[-1]
            whole = output_error(weight, hessian).sum().clamp_min(1e-30)  # 0 of a linear that is all zeros
            self._record(
                name,
                weight,
                result,
                start,
                output_error=(output_error(weight - result.weight(), hessian).sum() / whole).item(),
                output_error_of_rounding=(output_error(weight - nearest.weight(), hessian).sum() / whole).item(),
                damping=damping.added,
                attempts=damping.attempts,
                tokens=statistics.tokens,
            )
            out_in(linear).copy_(result.weight())

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in all of them."""
        codes = [result.codes for result in self.results.values()]
        return 1 - sum(int(c.count_nonzero()) for c in codes) / sum(int(c.numel()) for c in codes)

    def _record(self, name: str, weight: Tensor, result: Quantized, start: float, **facts: Any) -> None:
        if result.codes[weight == 0].any():
            raise LostZerosError(f"quantising {name} gave zeros a value; please report this")
        zeros = weight.numel() - int(result.codes.count_nonzero())
        lost = (weight - result.weight()).square().sum() / weight.square().sum().clamp_min(1e-30)
        if not math.isfinite(lost.item()):
            raise CutworkError(f"{name} has weights that are not finite; the model is damaged")
        self.results[name] = result
        self.report.append(
            {
                "name": name,
                "bits": self.grids[name].bits,
                "group": self.grids[name].group,
                "rows": weight.shape[0],
                "columns": weight.shape[1],
                "zeros": zeros,
                "sparsity": zeros / weight.numel(),
                "sparsity_before": 1 - int(weight.count_nonzero()) / weight.numel(),
                "weight_error": lost.item(),
                "seconds": round(time.perf_counter() - start, 4),
                **facts,
            }
        )


def _quantized(weight: Tensor, statistics: Hessian, grid: Grid, sparsity: float) -> tuple[Quantized, Quantized]:
    """A weight quantised by GPTQ, and for comparison by rounding; both pruned first, or on the way, to a sparsity."""
    if not sparsity:
        return gptq(weight, statistics, grid), rtn(weight, grid)
    pattern = Unstructured(sparsity)
    rounded = rtn(weight * magnitude(weight, None, pattern)[1], grid)
    return prune_and_quantize(weight, statistics, grid, pattern), rounded
