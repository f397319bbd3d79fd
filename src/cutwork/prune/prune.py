"""One-shot pruning as one call: from a plain checkpoint to a sparse one, a block at a time."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.prune.activations import Activations
from cutwork.prune.alps import alps
from cutwork.prune.calibrate import calibration_batches, walk
from cutwork.prune.magnitude import magnitude
from cutwork.prune.mapped import MappedModel, copy_checkpoint
from cutwork.prune.pattern import Pattern
from cutwork.prune.rates import outliers, owl, patterns
from cutwork.prune.second_order import Statistics, damp, factorise, output_error
from cutwork.prune.sparsegpt import sparsegpt
from cutwork.prune.wanda import wanda
from cutwork.recipe import PruneSettings
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_linears, block_lists, linears, out_in
from cutwork.torch_models.load import load_tokenizer
from cutwork.torch_models.model_inputs import family_of

REPORT = "prune-report.json"


def prune(
    model_dir: Path,
    output: Path,
    settings: PruneSettings,
    samples: Sequence[Sample] = (),
    *,
    max_length: int = 512,
    overwrite: bool = False,
    activation_memory: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Prune the linears of the blocks of the model in `model_dir` and write a plain checkpoint to `output`.

    `samples` calibrate all methods but magnitude. Zeros the model has already stay zeros. Memory: one block with its
    Hessians, and `activation_memory` bytes of hidden states (default: half of what is free), beyond which they are kept
    in files beside `output`. Returns the report that is also written to `output`: overall and per layer sparsity,
    error, dead inputs, damping and seconds.

    Raises CutworkError for unusable models or samples, a pattern that does not fit, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    with output_directory(output, overwrite=overwrite, source=model_dir) as partial:
        copy_checkpoint(model_dir, partial)
        opened = MappedModel(partial)
        surgery = _Surgery(opened, settings, console, activation_memory, partial.parent)
        if settings.needs_samples:
            family = family_of(opened.model.config)
            tokenizer = load_tokenizer(model_dir)
            surgery.batches = calibration_batches(
                tokenizer, samples, settings.calibration_samples, max_length, settings.seed, family
            )
        layers = surgery.prune()
        zeros = sum(layer["zeros"] for layer in layers)
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": zeros / sum(layer["rows"] * layer["columns"] for layer in layers),
            "seconds": round(time.perf_counter() - start, 3),
            "calibration_tokens": max(layer.get("tokens", 0) for layer in layers),
            "spilled_bytes": surgery.spilled,
            "layers": layers,
        }
        (partial / REPORT).write_text(json.dumps(report, indent=1))
    return report


class _Surgery:
    """One model being pruned: which pattern each linear gets, and what has been done so far."""

    def __init__(
        self, opened: MappedModel, settings: PruneSettings, console: Console, memory: int | None, directory: Path
    ) -> None:
        self.batches: list[dict[str, Tensor]] = []
        self.spilled = 0  # bytes of activations that went to files
        self._opened, self._settings, self._console = opened, settings, console
        self._memory, self._directory = memory, directory
        self._patterns: dict[str, Pattern] = {}
        self._layers: list[dict[str, Any]] = []

    def prune(self) -> list[dict[str, Any]]:
        """Prune all linears; returns what was done to each."""
        settings, model = self._settings, self._opened.model
        weights = {name: out_in(linear) for name, linear in block_linears(model).items()}
        shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()}
        patterns(shapes, settings)  # what cannot be done is said before any work
        densities = self._owl() if settings.rates == "owl" else None
        self._patterns = patterns(shapes, settings, densities)
        if settings.method == "magnitude":
            self._prune_by_magnitude()
        else:
            self._walk(self._visit, f"{settings.method} {settings.sparsity:.0%}")
        return self._layers

    def _walk(self, visit: Any, description: str, **options: Any) -> None:
        activations = Activations(self._memory, self._directory)
        walk(
            self._opened.model,
            self.batches,
            visit,
            self._console,
            description,
            activations=activations,
            resident=self._opened.resident,
            **options,
        )
        self.spilled = max(self.spilled, activations.spilled)

    def _owl(self) -> dict[str, float]:
        """The density of every linear: that of its block."""
        counts: dict[str, list[int]] = {}  # of each block: outliers, weights

        def visit(group: dict[str, nn.Module], statistics: Statistics) -> None:
            for name, linear in group.items():
                found = outliers(out_in(linear), statistics, self._settings.owl_threshold)
                totals = counts.setdefault(block_of[name], [0, 0])
                totals[0] += int(found)
                totals[1] += out_in(linear).numel()

        block_of = {
            f"{stack}.{index}.{name}": f"{stack}.{index}"
            for stack, blocks in block_lists(self._opened.model).items()
            for index, block in enumerate(blocks)
            for name, _ in linears(block)
        }
        self._walk(visit, "OWL rates", squares_only=True, changes=False)
        ratios = {block: found / size for block, (found, size) in counts.items()}
        sizes = {block: size for block, (_, size) in counts.items()}
        densities = owl(ratios, sizes, self._settings.sparsity, self._settings.owl_spread)
        return {name: densities[block] for name, block in block_of.items()}

    def _prune_by_magnitude(self) -> None:
        for stack, blocks in block_lists(self._opened.model).items():
            for index, block in enumerate(blocks):
                with self._opened.resident(block):
                    for name, linear in linears(block):
                        full = f"{stack}.{index}.{name}"
                        if full in self._patterns:
                            start, weight = time.perf_counter(), out_in(linear)
                            pruned, keep = magnitude(weight, None, self._patterns[full])
                            lost = (weight - pruned).float().square().sum()
                            whole = weight.float().square().sum().clamp_min(1e-30)
                            self._record(full, linear, pruned, keep, start, weight_error=(lost / whole).item())

    def _visit(self, group: dict[str, nn.Module], statistics: Statistics) -> None:
        wanted = {name: linear for name, linear in group.items() if name in self._patterns}
        if not wanted:
            return
        start = time.perf_counter()
        try:
            pruner, facts = self._pruner(statistics)
        except CutworkError as error:
            raise CutworkError(f"{', '.join(wanted)}: {error}") from None
        if facts.get("attempts", 1) > 1:
            self._console.print(
                f"{', '.join(wanted)}: Hessian not positive definite; damping raised to {facts['damping']:g}"
            )
        for name, linear in wanted.items():
            weight = out_in(linear).float()
            pruned, keep = pruner(weight, self._patterns[name])
            lost = output_error(weight - pruned, statistics.hessian).sum()
            whole = output_error(weight, statistics.hessian).sum().clamp_min(1e-30)
            facts |= {"output_error": (lost / whole).item(), "tokens": statistics.tokens}
            self._record(name, linear, pruned, keep, start, **facts)
            start = time.perf_counter()

    def _pruner(self, statistics: Statistics) -> tuple[Any, dict[str, Any]]:
        """The method with this input's statistics, and what is known about them."""
        settings = self._settings
        if settings.method == "wanda":
            dead = int((statistics.squares == 0).sum())
            return lambda weight, pattern: wanda(weight, statistics, pattern), {"dead_inputs": dead}
        if settings.method == "alps":
            damped = damp(statistics, settings.damping)
            facts = {"damping": damped.damping, "attempts": damped.attempts, "dead_inputs": damped.dead}
            return lambda weight, pattern: alps(weight, damped, pattern), facts
        factor = factorise(statistics, settings.damping)
        facts = {"damping": factor.damping, "attempts": factor.attempts, "dead_inputs": factor.dead}
        return lambda weight, pattern: sparsegpt(weight, factor, pattern, settings.block_size), facts

    def _record(self, name: str, linear: nn.Module, pruned: Tensor, keep: Tensor, start: float, **facts: Any) -> None:
        weight = out_in(linear)
        pattern = self._patterns[name]
        wanted = pattern.zeros(weight != 0)
        weight.copy_(pruned)
        zeros = weight.numel() - int(weight.count_nonzero())
        if zeros < wanted or not keep[weight != 0].all():
            raise CutworkError(f"{name} kept {weight.numel() - zeros} weights, more than it should; please report this")
        self._layers.append(
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
