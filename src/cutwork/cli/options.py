"""Arguments that several commands share, so that they read the same everywhere."""

from typing import Annotated, Literal

import typer

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A checkpoint, quantised or packed model directory, or a Hub name.")
]
Threads = Annotated[int, typer.Option("--threads", "-t", min=0, help="0: every CPU this process may use.")]
Context = Annotated[
    int | None, typer.Option("--context", min=1, help="Longest context in tokens; default: the model's own.")
]
CacheDType = Annotated[
    Literal["auto", "f32", "bf16", "i8"],
    typer.Option(help="Numbers in the KV cache; i8 halves bf16's memory. auto: f32 for float32 models, else bf16."),
]
ReorderWeights = Annotated[
    bool,
    typer.Option(
        "--reorder-weights",
        help="Faster prompts and batches from sparse int8, for 2.5 more bytes of memory per nonzero.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="A quicker model that guesses; the answers stay the first one's own."),
]
DraftTokens = Annotated[int, typer.Option(min=1, max=32, help="Tokens the draft model guesses at a time, at most.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output if it exists; a directory only if it holds a model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
