"""`cutwork list`: models that have been downloaded, or made once and kept."""

from dataclasses import asdict

from cutwork.cli.console import Listing, console, print_json
from cutwork.cli.options import Json


def list_models(as_json: Json = False) -> None:
    """List the models in the Hugging Face Hub's cache, and in Cutwork's own: those made of GGUF files, and drafts.

    Example: [bold]cutwork list[/bold]
    """
    from cutwork.store import cache, hub

    found = [*hub.downloaded(), *cache.made()]
    if as_json:
        print_json([asdict(model) | {"path": str(model.path), "used": model.used.isoformat()} for model in found])
        return
    listing = Listing("", "model|revision", "MB|last used", "revision")
    for model in found:
        listing.add_row(model.name, model.revision[:12], f"{model.size / 1e6:,.0f}", f"{model.used:%Y-%m-%d %H:%M}")
    console().print(listing if found else "no models; cutwork pull OWNER/NAME downloads one")
