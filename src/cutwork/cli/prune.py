"""`cutwork prune`: one-shot pruning."""

import math
from typing import Annotated

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
from cutwork.recipe import Pruner, PruneSettings, Rates
from cutwork.tasks.task import Sample

_DEFAULT = PruneSettings()


def prune(
    model: CheckpointArgument,
    output: OutputArgument,
    sparsity: Annotated[
        float | None,
        typer.Option(
            "--sparsity", "-s", help=f"Fraction of zeros in the pruned linears.  \\[default: {_DEFAULT.sparsity}]"
        ),
    ] = None,
    method: Annotated[
        Pruner,
        typer.Option(help="alps keeps most, sparsegpt takes under a third of its time, magnitude needs no task."),
    ] = _DEFAULT.method,
    pattern: Annotated[
        str,
        typer.Option(
            help="unstructured; n:m keeps n of m inputs (4:16, 2:4); adaptive: n of 16 by tile; 1x4, 4x1 zero blocks."
        ),
    ] = _DEFAULT.pattern,
    rates: Annotated[
        Rates, typer.Option(help="owl: blocks with more outliers keep more of their weights.")
    ] = _DEFAULT.rates,
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module", help="GLOB=RATE, the fraction of zeros of the linears it matches; 0 leaves dense. Repeatable."
        ),
    ] = None,
    task: TaskOption = None,
    task_option: TaskOptionsOption = None,
    recipe: RecipeOption = None,
    calibration_samples: CalibrationSamples = _DEFAULT.calibration_samples,
    damping: Damping = _DEFAULT.damping,
    token_weights: TokenWeightsOption = _DEFAULT.token_weights,
    block_size: Annotated[
        int, typer.Option(min=1, help="Columns per block of sparsegpt and rose.")
    ] = _DEFAULT.block_size,
    max_length: MaxLength = None,
    long: LongOption = None,
    activation_memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GB of hidden states kept in memory; more go to files beside OUT.  \\[default: half of what is free]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the calibration samples.")] = _DEFAULT.seed,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Prune the linear layers of a model's blocks at once; fine-tune with `cutwork tune` to win back what that costs.

    One block at a time is in memory, so that the model may be larger than that.

    Example: [bold]cutwork prune out/dense out/pruned --sparsity 0.6 --task gsm8k[/bold]

    Example: [bold]cutwork prune out/dense out/pruned --method sparsegpt --pattern 2:4 --task samples.jsonl[/bold]

    Example: [bold]cutwork prune out/dense out/pruned -s 0.7 --rates owl --module '*.down_proj=0.5' --task gsm8k[/bold]
    """
    from cutwork.prune.prune import prune as carry_out
    from cutwork.store.resolve import resolve

    settings = settings_of(
        PruneSettings,
        method=method,
        pattern=pattern,
        rates=rates,
        modules=_rates(module or []),
        calibration_samples=calibration_samples,
        damping=damping,
        token_weights=token_weights,
        block_size=block_size,
        seed=seed,
        **({} if sparsity is None else {"sparsity": sparsity}),
    )
    if activation_memory is not None and not math.isfinite(activation_memory):
        raise CutworkError(f"--activation-memory: input should be a finite number (got {activation_memory})")
    # Of many, as `run` does it: the first rows of a file may be all of one kind.
    samples: tuple[Sample, ...] = ()
    if not settings.needs_samples:
        given = {
            "--task": task,
            "--task-option": task_option,
            "--recipe": recipe,
            "--calibration-samples": calibration_samples != _DEFAULT.calibration_samples,
            "--max-length": max_length,
            "--long": long,
            "--activation-memory": activation_memory is not None,
            "--seed": seed != _DEFAULT.seed,
        }
        refuse_without_data(method, given)
    if settings.needs_samples:
        samples = training_task(task, recipe, None, seed, least=calibration_samples, options=task_option).train
    most, long = lengths(recipe, max_length, long)
    report = carry_out(
        resolve(model),
        output,
        settings,
        samples,
        max_length=most,
        long=long,
        overwrite=overwrite,
        activation_memory=None if activation_memory is None else int(activation_memory * 1e9),
        console=Console(stderr=True),
    )
    print_layers(report, f"{method}, {pattern}, {settings.sparsity:.0%} zeros", output, as_json)


def _rates(texts: list[str]) -> dict[str, float]:
    rates = {}
    for text in texts:
        glob, equals, rate = text.rpartition("=")
        try:
            rates[glob] = float(rate)
        except ValueError:
            equals = ""
        if not equals:
            raise CutworkError(f"--module: expected GLOB=RATE, as in '*.down_proj=0.5' (got '{text}')")
    return rates
