"""`cutwork prune`: one-shot pruning."""

from typing import Annotated, Literal

import typer
from rich.console import Console

from cutwork.cli.options import Json
from cutwork.cli.training import (
    CheckpointArgument,
    MaxLength,
    OutputArgument,
    RecipeOption,
    TaskOption,
    print_layers,
    settings_of,
    training_samples,
)
from cutwork.recipe import PruneSettings

_DEFAULT = PruneSettings()


def prune(
    model: CheckpointArgument,
    output: OutputArgument,
    sparsity: Annotated[
        float, typer.Option("--sparsity", "-s", help="Fraction of zeros in every pruned linear.")
    ] = _DEFAULT.sparsity,
    method: Annotated[
        Literal["sparsegpt", "magnitude"], typer.Option(help="magnitude needs no task, and is much worse.")
    ] = _DEFAULT.method,
    task: TaskOption = None,
    recipe: RecipeOption = None,
    calibration_samples: Annotated[int, typer.Option(min=1, help="Samples SparseGPT sees.")] = (
        _DEFAULT.calibration_samples
    ),
    damping: Annotated[float, typer.Option(help="Of the Hessian's mean diagonal.")] = _DEFAULT.damping,
    block_size: Annotated[int, typer.Option(min=1, help="Columns per SparseGPT block.")] = _DEFAULT.block_size,
    max_length: MaxLength = 512,
    seed: Annotated[int, typer.Option(help="Draws the calibration samples.")] = _DEFAULT.seed,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is a model directory.")] = False,
    as_json: Json = False,
) -> None:
    """Prune the linear layers of a model's blocks at once; fine-tune with `cutwork tune` to win back what that costs.

    Example: [bold]cutwork prune out/dense out/pruned --sparsity 0.6 --task gsm8k[/bold]

    Example: [bold]cutwork prune HuggingFaceTB/SmolLM2-135M-Instruct out/pruned -s 0.5 --task samples.jsonl[/bold]
    """
    from cutwork import checkpoint
    from cutwork.train.oneshot import prune as carry_out

    settings = settings_of(
        PruneSettings,
        method=method,
        sparsity=sparsity,
        calibration_samples=calibration_samples,
        damping=damping,
        block_size=block_size,
        seed=seed,
    )
    samples = () if method == "magnitude" else training_samples(task, recipe, calibration_samples, seed)
    report = carry_out(
        checkpoint.resolve(model),
        output,
        settings,
        samples,
        max_length=max_length,
        overwrite=overwrite,
        console=Console(stderr=True),
    )
    print_layers(report, f"{method}, {sparsity:.0%} zeros", output, as_json)
