"""Options that several commands share, so that they read the same everywhere; those to load a model: `loading.py`."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from cutwork.engine.decoding.options import GenerateOptions

# How tokens are drawn, unless a command or a model says it.
Temperature = Annotated[float | None, typer.Option(min=0, help="0: greedy.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Keep the k likeliest tokens; 0: all.")]
TopP = Annotated[float | None, typer.Option(min=0, max=1, help="Keep the likeliest tokens up to this mass.")]
MinP = Annotated[float | None, typer.Option(min=0, max=1, help="Drop tokens below this fraction of the likeliest.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(min=0.01, help="Above 1: repeat less; default: as the model says.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it exists; a directory only if it holds a model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def given(**options: float | None) -> "GenerateOptions":
    """Those of a generation's options that have a value."""
    return cast("GenerateOptions", {name: value for name, value in options.items() if value is not None})
