"""`cutwork list`: models of the Hub that have been downloaded."""

from dataclasses import asdict

from rich.table import Table

from cutwork.cli.console import console, print_json
from cutwork.cli.options import Json


def list_models(as_json: Json = False) -> None:
    """List the models in the Hugging Face Hub's cache.

    Example: [bold]cutwork list[/bold]
    """
    from cutwork.store import hub

    found = hub.downloaded()
    if as_json:
        print_json([asdict(model) | {"path": str(model.path), "used": model.used.isoformat()} for model in found])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("model", "revision", "MB", "last used"):
        table.add_column(name, overflow="fold")
    for model in found:
        table.add_row(model.name, model.revision[:12], f"{model.size / 1e6:,.0f}", f"{model.used:%Y-%m-%d %H:%M}")
    console().print(table if found else "no models; cutwork pull OWNER/NAME downloads one")
