"""`cutwork merge`: an adapter of PEFT and its base model become one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cutwork.cli.console import print_json
from cutwork.cli.options import Json, Overwrite
from cutwork.cli.training import OutputArgument


def merge(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="A directory that PEFT wrote, or a Hub name.")],
    output: OutputArgument,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model it belongs to.  \\[default: as it says itself]")
    ] = None,
    keep_zeros: Annotated[bool, typer.Option(help="Zeros of the base's linears stay zero.")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Put an adapter (LoRA) that PEFT trained into its base model; the result is a plain checkpoint to prune or pack.

    Merged the usual way, an adapter fills every zero of a sparse base; here they stay, unless --no-keep-zeros.

    Example: [bold]cutwork merge my-lora out/merged --base HuggingFaceTB/SmolLM2-135M-Instruct[/bold]
    """
    from cutwork.store.resolve import resolve
    from cutwork.tune.peft_adapter import merge_adapter

    report = merge_adapter(
        resolve(adapter),
        output,
        resolve(base) if base else None,
        keep_zeros=keep_zeros,
        overwrite=overwrite,
        console=Console(stderr=True),
    )
    if as_json:
        print_json({"output": str(output), **report})
        return
    print(f"{output}: {Path(report['base']).name} with the adapter, {report['zeros']} zeros in its blocks")
