"""`cutwork quantize`: int8 or int4 weights with every zero in place."""

import math
from typing import Annotated, get_args

import typer
from rich.console import Console

from cutwork.cli.options import Json, Overwrite
from cutwork.cli.training import (
    CalibrationSamples,
    CheckpointArgument,
    Damping,
    LongOption,
    MaxLength,
    OutputArgument,
    RecipeOption,
    TaskOption,
    TaskOptionsOption,
    TokenWeightsOption,
    lengths,
    print_layers,
    refuse_without_data,
    settings_of,
    training_task,
)
from cutwork.errors import CutworkError
from cutwork.recipe import Quantizer, QuantizeSettings, Scheme, SchemeOrSkip, TuneSettings
from cutwork.tasks.task import Sample

_DEFAULT = QuantizeSettings()
_MOST_SAMPLES = 20_000  # of qat; a longer training sees them again


def quantize(
    model: CheckpointArgument,
    output: OutputArgument,
    scheme: Annotated[
        Scheme,
        typer.Option(help="w8a8: int8 weights and activations; w4a16: int4 weights, a scale per group of inputs."),
    ] = _DEFAULT.scheme,
    method: Annotated[
        Quantizer,
        typer.Option(help="rtn rounds to nearest and needs no task; qat trains shortly with the rounding in sight."),
    ] = _DEFAULT.method,
    task: TaskOption = None,
    task_option: TaskOptionsOption = None,
    recipe: RecipeOption = None,
    calibration_samples: CalibrationSamples = _DEFAULT.calibration_samples,
    damping: Damping = _DEFAULT.damping,
    token_weights: TokenWeightsOption = _DEFAULT.token_weights,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Modules (patterns) to keep as they are; may be repeated.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=SCHEME", help="Another scheme, or skip, for some modules; may be repeated."),
    ] = None,
    head: Annotated[
        SchemeOrSkip,
        typer.Option(help="The output head, too; by GPTQ int4 costs it little, rounded, as by pack --head i4, much."),
    ] = _DEFAULT.head,
    group_size: Annotated[int, typer.Option(min=32, help="Inputs that share a scale in w4a16.")] = _DEFAULT.group_size,
    smoothing: Annotated[
        float, typer.Option(help="SmoothQuant's strength: activations' outliers move into weights. 0: none.")
    ] = _DEFAULT.smoothing,
    sparsity: Annotated[
        float, typer.Option(help="Prune to this fraction as well (gptq only). 0: do not.")
    ] = _DEFAULT.sparsity,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Optimiser steps of --method qat.  \\[default: {_DEFAULT.qat.max_steps}]"),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help=f"Peak learning rate of --method qat.  \\[default: {_DEFAULT.qat.learning_rate}]"),
    ] = None,
    max_length: MaxLength = None,
    long: LongOption = None,
    seed: Annotated[
        int, typer.Option(help="Draws the calibration samples, and seeds the training of --method qat.")
    ] = _DEFAULT.seed,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Quantise the linear layers of a model's blocks; every zero stays where it is.

    The result also loads in transformers, but for GPT-2's (compressed-tensors, int-quantized or pack-quantized). T5's
    wo keeps its precision unless an --override names it; mixtures of experts are refused.

    Example: [bold]cutwork quantize out/sparse out/sparse-int8 --task gsm8k[/bold]

    Example: [bold]cutwork quantize out/sparse out/sparse-int8 --method rtn --ignore '*.down_proj'[/bold]

    Example: [bold]cutwork quantize out/sparse out/sparse-int8 --method qat --steps 200 --task gsm8k[/bold]

    Example: [bold]cutwork quantize out/sparse out/int4 --scheme w4a16 --override '*.down_proj=w8a8' --task gsm8k[/bold]

    Example: [bold]cutwork quantize out/sparse out/int4 --scheme w4a16 --head w4a16 --task gsm8k[/bold]
    """
    from cutwork.quantize.quantize import quantize as carry_out
    from cutwork.store.resolve import resolve

    for option, value in (("--steps", steps), ("--lr", lr)):
        if value is not None and method != "qat":
            raise CutworkError(f"{option} is for --method qat alone; give that too, or leave it out")
    steps = _DEFAULT.qat.max_steps if steps is None else steps
    lr = _DEFAULT.qat.learning_rate if lr is None else lr
    if not 0 < lr < math.inf:
        raise CutworkError(f"--lr: input should be greater than 0 and finite (got {lr})")
    training = settings_of(
        TuneSettings,
        **_DEFAULT.qat.model_dump(exclude_unset=True) | {"max_steps": steps, "learning_rate": lr, "seed": seed},
    )
    settings = settings_of(
        QuantizeSettings,
        scheme=scheme,
        method=method,
        calibration_samples=calibration_samples,
        damping=damping,
        token_weights=token_weights,
        ignore=tuple(ignore) if ignore else _DEFAULT.ignore,
        group_size=group_size,
        overrides=_overrides(override or []),
        head=head,
        smoothing=smoothing,
        sparsity=sparsity,
        seed=seed,
        **({"qat": training} if method == "qat" else {}),
    )
    # Of a recipe all that it trains on.
    wanted = min(steps * training.batch_size, _MOST_SAMPLES) if method == "qat" and not recipe else None
    samples: tuple[Sample, ...] = ()
    if not settings.needs_samples:
        given = {
            "--task": task,
            "--task-option": task_option,
            "--recipe": recipe,
            "--max-length": max_length,
            "--long": long,
            "--seed": seed != _DEFAULT.seed,
        }
        refuse_without_data(method, given)
    if calibration_samples != _DEFAULT.calibration_samples and not settings.calibrates:
        raise CutworkError(f"--calibration-samples is for --method gptq and --smoothing, not {method}; leave it out")
    if settings.needs_samples:
        samples = training_task(task, recipe, wanted, seed, least=calibration_samples, options=task_option).train
    most, long = lengths(recipe, max_length, long)
    report = carry_out(
        resolve(model),
        output,
        settings,
        samples,
        max_length=most,
        long=long,
        overwrite=overwrite,
        console=Console(stderr=True),
    )
    print_layers(report, f"{scheme}, {method}", output, as_json)


def _overrides(options: list[str]) -> dict[str, str]:
    """Patterns and schemes of `PATTERN=SCHEME` options."""
    pairs = [option.rpartition("=") for option in options]
    for (pattern, _, scheme), option in zip(pairs, options, strict=True):
        if not pattern or scheme not in get_args(SchemeOrSkip):
            raise CutworkError(f"--override {option}: expected PATTERN=SCHEME, SCHEME being w8a8, w4a16 or skip")
    return {pattern: scheme for pattern, _, scheme in pairs}
