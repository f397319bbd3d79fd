"""`cutwork report`: tables and plots of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from cutwork.cli.console import console, print_json
from cutwork.cli.options import Json


def report(
    directories: Annotated[list[Path], typer.Argument(metavar="OUT_DIR...", help="Output directories of cutwork run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write results.md and results.png; default: the first OUT_DIR."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what runs measured: size, accuracy and speed of every variant; several runs also against sparsity.

    Example: [bold]cutwork report out/smollm2-gsm out/smollm2-gsm-70 --output report[/bold]
    """
    from cutwork.measure.report.results import load_results, told_apart
    from cutwork.measure.report.tables import console_table
    from cutwork.measure.report.write import write_report

    results = told_apart([load_results(directory) for directory in directories], directories)
    files = write_report(results, output or directories[0])
    if as_json:
        print_json(results)
        return
    console().print(console_table(results))
    print("wrote " + ", ".join(map(str, files)))
