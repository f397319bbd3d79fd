"""Quantisation as one call: from a plain checkpoint to a compressed-tensors one."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.prune.calibrate import calibration_batches, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.quantize.compressed import description, install
from cutwork.quantize.layers import Layers
from cutwork.quantize.qat import learn
from cutwork.quantize.schemes import choose, grid_of
from cutwork.quantize.smooth import smooth
from cutwork.recipe import QuantizeSettings
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import out_in
from cutwork.torch_models.load import load_for_surgery, load_tokenizer, save_model
from cutwork.torch_models.model_inputs import inputs_of

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
    """Quantise the linears of the blocks of the model in `model_dir` and write a quantised checkpoint.

    `samples` calibrate GPTQ and smoothing, and train with method qat, whose unfinished training is kept in
    `OUTPUT.work`; rounding needs none. Every zero stays where it is. The result loads in transformers and vLLM, that
    of GPT-2 in the engine only (see `compressed.install`). Returns the report that is also written to `output`:
    sparsity, bits and error per layer.

    Raises CutworkError for unusable models or samples, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    work = output.with_name(f"{output.name}.work")
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
    with output_directory(output, overwrite=overwrite) as partial:
        model, stored = load_for_surgery(model_dir)
        chosen = choose(model, settings)
        grids = {
            name: grid_of(scheme, out_in(linear).shape[1], settings.group_size, stored)
            for name, (linear, scheme) in chosen.items()
        }
        scales: dict[str, Tensor] = {}
        training: dict[str, Any] = {}
        if settings.method == "qat":
            scales = {name: grids[name].scales(out_in(linear).float()) for name, (linear, _) in chosen.items()}
            tuned = work / "learned"
            report = learn(model_dir, tuned, settings, samples, stored, max_length=max_length, console=console)
            training = {"training": {key: report[key] for key in ("steps", "seconds", "final")}}
            model, _ = load_for_surgery(tuned)
            chosen = choose(model, settings)
        layers = Layers(grids)
        linears = {name: linear for name, (linear, _) in chosen.items()}
        batches: list[dict[str, Tensor]] = []
        if settings.method == "gptq" or settings.smoothing:
            tokenizer = load_tokenizer(model_dir)
            batches = calibration_batches(
                tokenizer, samples, settings.calibration_samples, max_length, settings.seed, inputs_of(model.config)
            )
        smoothed = smooth(model, batches, settings.smoothing) if settings.smoothing else {}
        if settings.method != "gptq":
            layers.round(linears, scales)
        else:

            def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
                wanted = {name: linears[name] for name in group if name in linears}
                if wanted:
                    layers.feed_back(wanted, statistics, settings.sparsity)

            walk(model, batches, visit, console, f"GPTQ {settings.scheme}", damping=settings.damping)
        model.to(stored)
        for name, (linear, scheme) in chosen.items():
            install(linear, layers.results[name], scheme, stored)
        schemes = {name: (scheme, grids[name]) for name, (_, scheme) in chosen.items()}
        model.config.quantization_config = description(model, schemes)
        save_model(model, model_dir, partial)
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": layers.sparsity,
            "smoothed": smoothed,
            **training,
            "seconds": round(time.perf_counter() - start, 3),
            "layers": layers.report,
        }
        (partial / REPORT).write_text(json.dumps(report, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    return report
