"""`cutwork run`: a whole recipe."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cutwork.cli.console import console, print_json
from cutwork.cli.options import Json


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe; the sources have some in recipes/.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output directory instead of the recipe's.")
    ] = None,
    until: Annotated[
        str, typer.Option(help="Stop after this stage: preview, teacher, prune, tune, quantize, pack or compare.")
    ] = "compare",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting instead of the recipe's; may be given several times."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Carry out a recipe: dense fine-tune, prune, sparse fine-tune, quantise, pack, compare.

    Finished stages are never repeated: after an interruption the same command goes on, and a changed recipe redoes only
    what depends on the change; what was made before stays until the new one is there, and is there again where the
    change is taken back. Before it starts it says what the stages will take on this machine.

    Example: [bold]cutwork run recipes/demo.yaml[/bold]

    Example: [bold]cutwork run recipes/smollm2-gsm.yaml --set prune.sparsity=0.6 --output out/smollm2-gsm-60[/bold]
    """
    from cutwork.measure.report.results import load_results
    from cutwork.measure.report.tables import console_table
    from cutwork.recipe_file import load_recipe
    from cutwork.run.run import run as carry_out

    directory = carry_out(load_recipe(recipe, changes or ()), output=output, until=until, console=Console(stderr=True))
    if until != "compare":
        print(json.dumps({"output": str(directory)}) if as_json else f"stages up to {until} are in {directory}")
        return
    results = load_results(directory)
    if as_json:
        print_json(results)
        return
    console().print(console_table([results]))
    written = (directory / name for name in ("results.json", "results.md", "results.png"))
    print(f"wrote {', '.join(str(file) for file in written if file.is_file())}")
