"""Options that several commands share, so that they read the same everywhere; those to load a model: `loading.py`."""

from typing import Annotated

import typer

Temperature = Annotated[float, typer.Option(min=0, help="0: greedy.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Keep the likeliest tokens up to this mass.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Makes sampling repeatable.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it exists; a directory only if it holds a model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
