"""`cutwork pull`: download a model of the Hub."""

from typing import Annotated

import typer


def pull(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL…", help="Names on the Hub, as OWNER/NAME or OWNER/NAME@REVISION.")
    ],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit, for all of them.")] = None,
) -> None:
    """Download models of the Hugging Face Hub into its cache, so that they are there without a network.

    Example: [bold]cutwork pull Qwen/Qwen3-0.6B[/bold]
    """
    from cutwork.store import hub

    for model in models:
        name, _, wanted = model.removeprefix("hf:").partition("@")
        typer.echo(hub.download(name, revision or wanted or None))
