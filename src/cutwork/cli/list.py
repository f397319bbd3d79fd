"""`cutwork list`: models of the Hub that have been downloaded."""

from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cutwork.cli.console import print_json
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
    table = Table("model", "revision", "MB", "last used", box=None, pad_edge=False)
    for model in found:
        table.add_row(model.name, model.revision[:12], f"{model.size / 1e6:,.0f}", f"{model.used:%Y-%m-%d %H:%M}")
    Console().print(table if found else "no models; cutwork pull OWNER/NAME downloads one")
