"""`cutwork quantize`: int8 weights with every zero in place."""

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
from cutwork.recipe import QuantizeSettings

_DEFAULT = QuantizeSettings()


def quantize(
    model: CheckpointArgument,
    output: OutputArgument,
    method: Annotated[
        Literal["gptq", "rtn"], typer.Option(help="rtn rounds to nearest and needs no task.")
    ] = _DEFAULT.method,
    task: TaskOption = None,
    recipe: RecipeOption = None,
    calibration_samples: Annotated[int, typer.Option(min=1, help="Samples GPTQ sees.")] = _DEFAULT.calibration_samples,
    damping: Annotated[float, typer.Option(help="Of the Hessian's mean diagonal.")] = _DEFAULT.damping,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Modules (patterns) to keep as they are; may be repeated.")
    ] = None,
    max_length: MaxLength = 512,
    seed: Annotated[int, typer.Option(help="Draws the calibration samples.")] = _DEFAULT.seed,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is a model directory.")] = False,
    as_json: Json = False,
) -> None:
    """Quantise the linear layers of a model's blocks to int8; activations are quantised per token at run time.

    The result also loads in transformers and vLLM (compressed-tensors, int-quantized).

    Example: [bold]cutwork quantize out/sparse out/sparse-int8 --task gsm8k[/bold]

    Example: [bold]cutwork quantize out/sparse out/sparse-int8 --method rtn --ignore '*.down_proj'[/bold]
    """
    from cutwork import checkpoint
    from cutwork.quantize.quantize import quantize as carry_out

    settings = settings_of(
        QuantizeSettings,
        method=method,
        calibration_samples=calibration_samples,
        damping=damping,
        ignore=tuple(ignore) if ignore else _DEFAULT.ignore,
        seed=seed,
    )
    samples = () if method == "rtn" else training_samples(task, recipe, calibration_samples, seed)
    report = carry_out(
        checkpoint.resolve(model),
        output,
        settings,
        samples,
        max_length=max_length,
        overwrite=overwrite,
        console=Console(stderr=True),
    )
    print_layers(report, f"int8, {method}", output, as_json)
