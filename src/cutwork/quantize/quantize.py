"""Quantisation as one call: from a plain checkpoint to a compressed-tensors `int-quantized` one."""

import fnmatch
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork import checkpoint
from cutwork.errors import CutworkError
from cutwork.quantize.gptq import gptq
from cutwork.quantize.rtn import Quantized, rtn
from cutwork.recipe import QuantizeSettings
from cutwork.tasks.task import Sample
from cutwork.train.blocks import block_linears
from cutwork.train.calibrate import calibration_batches, walk
from cutwork.train.load import load_for_surgery, load_tokenizer, save_model
from cutwork.train.masks import LostZerosError
from cutwork.train.obs import Statistics, factorise, output_error

REPORT = "quantize-report.json"


def quantize(
    model_dir: Path,
    output: Path,
    settings: QuantizeSettings,
    samples: Sequence[Sample] = (),
    *,
    max_length: int = 512,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Quantise the linears of the blocks of the model in `model_dir` to int8 and write a quantised checkpoint.

    `samples` calibrate GPTQ; rounding needs none. Every zero stays where it is. The result loads in transformers and
    vLLM. Returns the report that is also written to `output`: sparsity and error per layer.

    Raises CutworkError for unusable models or samples, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    with checkpoint.output_directory(output, overwrite=overwrite) as partial:
        model, stored = load_for_surgery(model_dir)
        chosen = _chosen(model, settings.ignore)
        layers = _quantise(model, model_dir, chosen, settings, samples, max_length, console)
        model.to(stored)
        for name, (result, _) in layers.items():
            _install(chosen[name], result, stored)
        model.config.quantization_config = _quantization_config(model, chosen)
        save_model(model, model_dir, partial)
        zeros = sum(layer["zeros"] for _, layer in layers.values())
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": zeros / sum(result.codes.numel() for result, _ in layers.values()),
            "seconds": round(time.perf_counter() - start, 3),
            "layers": [layer for _, layer in layers.values()],
        }
        (partial / REPORT).write_text(json.dumps(report, indent=1))
    return report


def _chosen(model: nn.Module, ignore: Sequence[str]) -> dict[str, nn.Linear]:
    """The linears to quantise, by name."""
    found = {
        name: linear
        for name, linear in block_linears(model).items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)
    }
    if not found:
        raise CutworkError(f"nothing is left to quantise: ignore = {', '.join(ignore)}")
    linear_only = {name: linear for name, linear in found.items() if isinstance(linear, nn.Linear)}
    if len(linear_only) < len(found):
        raise CutworkError(
            f"{type(model).__name__} stores its linears transposed (Conv1D), which the quantised format cannot express"
        )
    return linear_only


def _quantise(
    model: nn.Module,
    model_dir: Path,
    chosen: dict[str, nn.Linear],
    settings: QuantizeSettings,
    samples: Sequence[Sample],
    max_length: int,
    console: Console,
) -> dict[str, tuple[Quantized, dict[str, Any]]]:
    layers: dict[str, tuple[Quantized, dict[str, Any]]] = {}

    def record(name: str, weight: Tensor, result: Quantized, start: float, **facts: Any) -> None:
        if result.codes[weight == 0].any():
            raise LostZerosError(f"quantising {name} gave zeros a value; please report this")
        zeros = weight.numel() - int(result.codes.count_nonzero())
        lost = (weight - result.weight()).square().sum() / weight.square().sum().clamp_min(1e-30)
        layers[name] = (
            result,
            {
                "name": name,
                "rows": weight.shape[0],
                "columns": weight.shape[1],
                "zeros": zeros,
                "sparsity": zeros / weight.numel(),
                "sparsity_before": 1 - int(weight.count_nonzero()) / weight.numel(),
                "weight_error": lost.item(),
                "seconds": round(time.perf_counter() - start, 4),
                **facts,
            },
        )

    if settings.method == "rtn":
        for name, linear in chosen.items():
            start, weight = time.perf_counter(), linear.weight.data.float()
            record(name, weight, rtn(weight), start)
        return layers

    tokenizer = load_tokenizer(model_dir)
    batches = calibration_batches(tokenizer, samples, settings.calibration_samples, max_length, settings.seed)

    def visit(group: dict[str, nn.Module], statistics: Statistics) -> None:
        wanted = {name: chosen[name] for name in group if name in chosen}
        if not wanted:
            return
        start = time.perf_counter()
        factor = factorise(statistics, settings.damping)
        for name, linear in wanted.items():
            weight = linear.weight.data.float()
            result = gptq(weight, factor, statistics.hessian)
            whole = output_error(weight, statistics.hessian).sum()
            lost = output_error(weight - result.weight(), statistics.hessian).sum()
            nearest = output_error(weight - rtn(weight).weight(), statistics.hessian).sum()
            record(
                name,
                weight,
                result,
                start,
                output_error=(lost / whole).item(),
                output_error_of_rounding=(nearest / whole).item(),
                damping=factor.damping,
                attempts=factor.attempts,
                tokens=statistics.tokens,
            )
            linear.weight.data.copy_(result.weight())  # the blocks behind are calibrated with what they will see
            start = time.perf_counter()

    walk(model, batches, visit, console, "GPTQ int8")
    return layers


def _install(linear: nn.Linear, result: Quantized, scale_dtype: torch.dtype) -> None:
    """Put codes and scales into a linear under the names that compressed-tensors gives them."""
    linear.weight = nn.Parameter(result.codes, requires_grad=False)
    scales = result.scales[:, None].to(scale_dtype)
    linear.register_parameter("weight_scale", nn.Parameter(scales, requires_grad=False))


def _quantization_config(model: nn.Module, chosen: dict[str, nn.Linear]) -> dict[str, Any]:
    """compressed-tensors' description of W8A8; without a `sparsity_config`, which vLLM refuses."""
    others = [n for n, child in model.named_modules() if isinstance(child, nn.Linear) and n not in chosen]
    common = {"num_bits": 8, "type": "int", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**common, "strategy": "channel", "dynamic": False},
                "input_activations": {**common, "strategy": "token", "dynamic": True},
                "output_activations": None,
            }
        },
        "ignore": others,
    }
