"""`cutwork rm`: remove a downloaded model."""

from typing import Annotated

import typer


def remove(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Names as `cutwork list` shows them, with or without @REVISION."),
    ],
) -> None:
    """Remove models from the Hugging Face Hub's cache; other programs that use it find them gone too.

    Example: [bold]cutwork rm Qwen/Qwen3-0.6B[/bold]
    """
    from cutwork.store import hub

    for model in models:
        name, _, revision = model.removeprefix("hf:").partition("@")
        typer.echo(f"{model}: {hub.remove(name, revision) / 1e6:,.0f} MB are free again")
