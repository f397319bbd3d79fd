"""Pruning a model's linears one by one, with a record of what each lost."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.magnitude import magnitude
from cutwork.prune.pattern import Pattern
from cutwork.prune.pruners import Prune
from cutwork.prune.second_order import output_error
from cutwork.torch_models.blocks import out_in


@dataclass
class Layers:
    """The linears that are pruned, by name, and the report on each."""

    patterns: Mapping[str, Pattern]
    console: Console
    report: list[dict[str, Any]] = field(default_factory=list)

    def by_magnitude(self, linears: Mapping[str, nn.Module]) -> None:
        """Prune those of some linears that have a pattern by the size of their weights alone."""
        for name, linear in linears.items():
            if name not in self.patterns:
                continue
            start, weight = time.perf_counter(), _checked(name, linear)
            pruned, keep = magnitude(weight, None, self.patterns[name])
            lost = (weight - pruned).float().square().sum()
            whole = weight.float().square().sum().clamp_min(1e-30)
            self._record(name, linear, pruned, keep, start, weight_error=(lost / whole).item())

    def by_inputs(self, linears: Mapping[str, nn.Module], statistics: Hessian, prune: Prune) -> None:
        """Prune those of some linears that have a pattern, given the statistics of the input that they share."""
        wanted = {name: linear for name, linear in linears.items() if name in self.patterns}
        for name, linear in wanted.items():
            start, weight = time.perf_counter(), _checked(name, linear).float()
            try:
                pruned, keep = prune(weight, statistics, self.patterns[name])
            except CutworkError as error:
                raise CutworkError(f"{', '.join(wanted)}: {error}") from None
            self._record(name, linear, pruned, keep, start, **_facts(statistics), **_error(weight, pruned, statistics))
        raised = [applied for applied in statistics.applied if applied.attempts > 1]
        if raised:
            self.console.print(
                f"{', '.join(wanted)}: Hessian not positive definite; damping raised to {raised[-1].added:g}"
            )

    def _record(self, name: str, linear: nn.Module, pruned: Tensor, keep: Tensor, start: float, **facts: Any) -> None:
        weight = out_in(linear)
        wanted = self.patterns[name].zeros(weight != 0)
        weight.copy_(pruned + 0.0)  # -0 would be another bit to pack
        zeros = weight.numel() - int(weight.count_nonzero())
        if zeros < wanted or not keep[weight != 0].all():
            raise CutworkError(f"{name} kept {weight.numel() - zeros} weights, more than it should; please report this")
        self.report.append(
            {
                "name": name,
                "rows": weight.shape[0],
                "columns": weight.shape[1],
                "zeros": zeros,
                "sparsity": zeros / weight.numel(),
                "seconds": round(time.perf_counter() - start, 4),
                **facts,
            }
        )


def _checked(name: str, linear: nn.Module) -> Tensor:
    weight = out_in(linear)
    if not weight.isfinite().all():
        raise CutworkError(f"{name} has weights that are not finite; the model is damaged")
    return weight


def _facts(statistics: Hessian) -> dict[str, Any]:
    """What is known about a group's inputs, and what it took to make their Hessian positive definite, if it had to."""
    damping = [{"damping": applied.added, "attempts": applied.attempts} for applied in statistics.applied[-1:]]
    return {**(damping[0] if damping else {}), "dead_inputs": statistics.dead}


def _error(weight: Tensor, pruned: Tensor, statistics: Hessian) -> dict[str, Any]:
    lost = output_error(weight - pruned, statistics.matrix).sum()
    whole = output_error(weight, statistics.matrix).sum().clamp_min(1e-30)
    return {"output_error": (lost / whole).item(), "tokens": statistics.tokens}
