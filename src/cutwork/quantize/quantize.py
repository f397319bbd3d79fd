"""Quantisation as one call: from a plain checkpoint to a compressed-tensors one."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers.core_model_loading import WeightConverter

from cutwork.errors import CutworkError
from cutwork.prune.calibrate import calibration_batches, calibration_examples, walk
from cutwork.prune.input_statistics import Hessian
from cutwork.prune.token_weights import token_weights
from cutwork.quantize.compressed import describe, install
from cutwork.quantize.head import head_statistics, output_head, untie
from cutwork.quantize.layers import Layers
from cutwork.quantize.qat import learn
from cutwork.quantize.schemes import choose, grid_of
from cutwork.quantize.smooth import smooth
from cutwork.recipe import Long, QuantizeSettings
from cutwork.store.json_file import write_json
from cutwork.store.output import absolute, check_apart, output_directory, work_of
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import check_linear, out_in
from cutwork.torch_models.load import SAVE_BY_OWN_NAMES, load_for_surgery, load_tokenizer, save_model
from cutwork.torch_models.model_inputs import inputs_of
from cutwork.torch_models.precision import wants_bfloat16

REPORT = "quantize-report.json"
_LEARNED = "learned"  # in the work directory: what method qat trains, and begins the names of what that leaves


def quantize(
    model_dir: Path,
    output: Path,
    settings: QuantizeSettings,
    samples: Sequence[Sample] = (),
    *,
    max_length: int = 512,
    long: Long = "drop",
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Quantise the linears of the blocks of the model in `model_dir` and write a quantised checkpoint.

    `samples` calibrate GPTQ and smoothing, and train with method qat, whose unfinished training is kept in
    `OUTPUT.work`; rounding needs none; `long` says what becomes of those of more than `max_length` tokens. Every zero
    stays where it is. The result loads in transformers and vLLM, that of GPT-2 in the engine only (see
    `compressed.install`). Returns the report that is also written to `output`: sparsity, bits and error per layer.

    Raises CutworkError for unusable models or samples, or if `output` exists.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    output = absolute(output)
    check_apart(output, model_dir)
    work = work_of(output)
    if settings.method == "qat":
        _check_own(work)
        if overwrite:
            shutil.rmtree(work, ignore_errors=True)
    with output_directory(output, overwrite=overwrite) as partial:
        model, stored = load_for_surgery(model_dir)
        check_linear(model)
        if settings.head != "skip":
            untie(model)
        _check_unmerged(model, model_dir, settings)
        grids = {
            name: grid_of(scheme, out_in(linear).shape[1], settings.group_size, stored)
            for name, (linear, scheme) in choose(model, settings).items()
        }
        layers = Layers(grids)
        smoothed: dict[str, list[str]] = {}
        if settings.method == "qat":
            inside = choose(model, settings.model_copy(update={"head": "skip"}))
            scales = {name: grids[name].scales(out_in(linear).float()) for name, (linear, _) in inside.items()}
            learned = work / _LEARNED
            tuned = learn(
                model_dir, learned, settings, samples, stored, max_length=max_length, long=long, console=console
            )
            taught = {key: tuned[key] for key in ("steps", "seconds", "final")}
            facts: dict[str, Any] = {"training": taught, "data": tuned.get("data")}
            model, _ = load_for_surgery(learned)
            layers.round({name: model.get_submodule(name) for name in scales}, scales)
            if settings.head != "skip":
                untie(model)
                for name in scales:
                    out_in(model.get_submodule(name)).copy_(layers.results[name].weight())
                batches, _ = _calibration(model, model_dir, settings, samples, max_length, long, console)
                _quantize_head(model, layers, batches, settings, console)
        else:
            batches, facts = _calibration(model, model_dir, settings, samples, max_length, long, console)
            smoothed = smooth(model, batches, settings.smoothing) if settings.smoothing else {}
            _quantize_layers(model, layers, batches, settings, console)
        model.to(stored)
        _install(model, layers, settings, stored)
        save_model(model, learned if settings.method == "qat" else model_dir, partial)  # with what ends its texts
        report = {
            "model": str(model_dir),
            "settings": settings.model_dump(mode="json"),
            "sparsity": layers.sparsity,
            "smoothed": smoothed,
            **facts,
            "bfloat16": settings.calibrates
            and (stored == torch.bfloat16 or wants_bfloat16("auto", torch.device("cpu"))),
            "seconds": round(time.perf_counter() - start, 3),
            "layers": layers.report,
        }
        write_json(partial / REPORT, report)
    if settings.method == "qat":
        shutil.rmtree(work, ignore_errors=True)
    return report


def _check_own(work: Path) -> None:
    """Raise CutworkError if there is something else than the training of method qat, finished or not."""
    if work.exists() and not all(entry.name.lstrip(".").startswith(_LEARNED) for entry in work.iterdir()):
        raise CutworkError(f"{work} is not from quantize --method qat; move it away or choose another output directory")


def _check_unmerged(model: Any, model_dir: Path, settings: QuantizeSettings) -> None:
    """Raise CutworkError for int4 weights that transformers would merge when it saves them, as in Nomic's `Wqkv`: the
    shapes that are stored beside them would be merged, too."""
    conversions = getattr(model, "_weight_conversions", None) or ()
    merged = [part for each in conversions if isinstance(each, WeightConverter) for part in each.target_patterns]
    for name, (_, scheme) in choose(model, settings).items():
        if scheme == "w4a16" and any(part in name for part in merged):
            raise CutworkError(
                f"{model_dir} keeps {name} in one weight with others, which w4a16 cannot be; {SAVE_BY_OWN_NAMES}"
            )


def _calibration(
    model: Any,
    model_dir: Path,
    settings: QuantizeSettings,
    samples: Sequence[Sample],
    max_length: int,
    long: Long,
    console: Console,
) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """What GPTQ and smoothing are calibrated with, if they are, and what the report says of it."""
    if not settings.needs_samples:
        return [], {}
    tokenizer, inputs = load_tokenizer(model_dir), inputs_of(model.config)
    count, seed = settings.calibration_samples, settings.seed
    data = calibration_examples(tokenizer, samples, count, max_length, seed, inputs, long)
    if data.changed():
        console.print(data.changed())
    return calibration_batches(data), {"data": data.counts()}


def _quantize_layers(
    model: Any, layers: Layers, batches: list[dict[str, Tensor]], settings: QuantizeSettings, console: Console
) -> None:
    """By rounding, or by GPTQ block after block, each calibrated with what those before it give once quantised."""
    if settings.method == "rtn":
        layers.round({name: model.get_submodule(name) for name in layers.grids})
        return

    def visit(group: dict[str, nn.Module], statistics: Hessian) -> None:
        wanted = {name: linear for name, linear in group.items() if name in layers.grids}
        if wanted:
            layers.feed_back(wanted, statistics, settings.sparsity)

    weights = None if settings.token_weights == "equal" else token_weights(model, batches, console, settings.seed)
    walk(model, batches, visit, console, f"GPTQ {settings.scheme}", damping=settings.damping, weights=weights)
    if settings.head != "skip":
        _quantize_head(model, layers, batches, settings, console)


def _quantize_head(
    model: Any, layers: Layers, batches: list[dict[str, Tensor]], settings: QuantizeSettings, console: Console
) -> None:
    """By GPTQ, calibrated with what the quantised blocks give."""
    name, head = output_head(model)
    console.print(
        f"GPTQ {settings.head} of the output head, {' × '.join(map(str, out_in(head).shape))}", highlight=False
    )
    layers.feed_back({name: head}, head_statistics(model, batches, settings.damping))


def _install(model: Any, layers: Layers, settings: QuantizeSettings, stored: torch.dtype) -> None:
    """Put the quantised linears into the model, and what describes them into its configuration."""
    chosen = choose(model, settings)
    for name, (linear, scheme) in chosen.items():
        install(linear, layers.results[name], scheme, stored)
    schemes = {name: (scheme, layers.grids[name]) for name, (_, scheme) in chosen.items()}
    model.config.quantization_config = describe(model, schemes)
