"""One-shot pruning as one call: from a plain checkpoint to a sparse one."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork import checkpoint
from cutwork.errors import CutworkError
from cutwork.recipe import PruneSettings
from cutwork.tasks.task import Sample
from cutwork.train.blocks import block_linears, out_in
from cutwork.train.calibrate import calibration_batches, walk
from cutwork.train.load import load_for_surgery, load_tokenizer, save_model
from cutwork.train.obs import Statistics, factorise, output_error
from cutwork.train.prune.magnitude import magnitude
from cutwork.train.prune.pattern import Unstructured
from cutwork.train.prune.sparsegpt import sparsegpt

REPORT = "prune-report.json"


def prune(
    model_dir: Path,
    output: Path,
    settings: PruneSettings,
    samples: Sequence[Sample] = (),
    *,
    max_length: int = 512,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Prune the linears of the blocks of the model in `model_dir` and write a plain checkpoint to `output`.

    `samples` calibrate SparseGPT; magnitude pruning needs none. Zeros the model has already stay zeros. Returns the
    report that is also written to `output`: overall and per layer sparsity, error, damping and seconds.

    Raises CutworkError for unusable models or samples, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    with checkpoint.output_directory(output, overwrite=overwrite) as partial:
        model, stored = load_for_surgery(model_dir)
        layers = _prune(model, model_dir, settings, samples, max_length, console)
        zeros = sum(layer["zeros"] for layer in layers)
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": zeros / sum(layer["rows"] * layer["columns"] for layer in layers),
            "seconds": round(time.perf_counter() - start, 3),
            "layers": layers,
        }
        save_model(model.to(stored), model_dir, partial)
        (partial / REPORT).write_text(json.dumps(report, indent=1))
    return report


def _prune(
    model: nn.Module,
    model_dir: Path,
    settings: PruneSettings,
    samples: Sequence[Sample],
    max_length: int,
    console: Console,
) -> list[dict[str, Any]]:
    pattern = Unstructured(settings.sparsity)
    layers: list[dict[str, Any]] = []

    def record(name: str, linear: nn.Module, pruned: Tensor, start: float, **facts: Any) -> None:
        weight = out_in(linear)
        weight.copy_(pruned)
        zeros = weight.numel() - int(weight.count_nonzero())
        if zeros < pattern.zeros(weight != 0):
            raise CutworkError(f"{name} kept {weight.numel() - zeros} weights, more than it should; please report this")
        layers.append(
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

    if settings.method == "magnitude":
        for name, linear in block_linears(model).items():
            start, weight = time.perf_counter(), out_in(linear)
            pruned, _ = magnitude(weight, None, pattern)
            lost = (weight - pruned).float().square().sum() / weight.float().square().sum()
            record(name, linear, pruned, start, weight_error=lost.item())
        return layers

    tokenizer = load_tokenizer(model_dir)
    batches = calibration_batches(tokenizer, samples, settings.calibration_samples, max_length, settings.seed)

    def visit(group: dict[str, nn.Module], statistics: Statistics) -> None:
        start = time.perf_counter()
        try:
            factor = factorise(statistics, settings.damping)
        except CutworkError as error:
            raise CutworkError(f"{', '.join(group)}: {error}") from None
        if factor.attempts > 1:
            console.print(f"{', '.join(group)}: Hessian not positive definite; damping raised to {factor.damping:g}")
        for name, linear in group.items():
            weight = out_in(linear).float()
            pruned, _ = sparsegpt(weight, factor, pattern, settings.block_size)
            lost = output_error(weight - pruned, statistics.hessian).sum()
            whole = output_error(weight, statistics.hessian).sum()
            facts = {"damping": factor.damping, "attempts": factor.attempts, "dead_inputs": factor.dead}
            record(name, linear, pruned, start, output_error=(lost / whole).item(), tokens=statistics.tokens, **facts)
            start = time.perf_counter()

    walk(model, batches, visit, console, f"SparseGPT {settings.sparsity:.0%}")
    return layers
