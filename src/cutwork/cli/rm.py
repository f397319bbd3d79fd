"""`cutwork rm`: remove a model that was downloaded, or made once and kept."""

from typing import Annotated

import typer


def remove(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Names as `cutwork list` shows them, with or without @REVISION."),
    ],
) -> None:
    """Remove models from Cutwork's cache, or the Hugging Face Hub's: other programs that use that find them gone too.

    Example: [bold]cutwork rm Qwen/Qwen3-0.6B[/bold]
    """
    from cutwork.errors import CutworkError
    from cutwork.store import cache, hub

    for model in models:
        freed = cache.remove(model)
        if freed is None:
            name, at, revision = model.removeprefix("hf:").partition("@")
            if at and not revision:
                raise CutworkError(f"'{model}' names no revision; give one, or leave out the @ to remove all")
            freed = hub.remove(name, revision)
        typer.echo(f"{model}: {freed / 1e6:,.0f} MB are free again")
