"""`cutwork push`: give a run's sparse model away, with its evidence."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cutwork.cli.console import print_json
from cutwork.cli.options import Json
from cutwork.errors import CutworkError


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory that cutwork run left.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the Hugging Face Hub.")],
    dense: Annotated[str, typer.Option(help="The packed model that is compared with.")] = "dense-int8",
    sparse: Annotated[str, typer.Option(help="The packed model that is given away.")] = "sparse-int8",
    private: Annotated[bool, typer.Option("--private", help="Make the repository one that only you can see.")] = False,
    examples: Annotated[
        bool, typer.Option("--examples", help="Give away some of the task's questions too, for people to ask.")
    ] = False,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write what would be pushed there, and push nothing.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace a repository that is there, and delete whatever else is in it; with --dry-run a model "
            "directory.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a finished run on the Hugging Face Hub: the sparse model's plain weights, which transformers loads, the
    packed models, the recipe, and a card that says what was measured: accuracy before and after with its interval,
    speed with processor and threads, zeros layer by layer.

    Needs a token that may write: hf auth login, or HF_TOKEN.

    Example: [bold]cutwork push out/demo me/smollm2-sparse --dry-run out/repository[/bold]
    """
    from cutwork.run.hub_repository import repository
    from cutwork.store import hub
    from cutwork.store.output import output_directory

    if not hub.is_name(name, owned=True):
        raise CutworkError(f"{name} cannot be a name on the Hub; give OWNER/NAME")
    files = repository(run, name, dense, sparse, examples=examples)
    if dry_run is None:
        message = f"{sparse} of a run of cutwork"
        address = hub.upload(name, files, private=private, overwrite=overwrite, message=message)
    else:
        with output_directory(dry_run, overwrite, source=run) as partial:
            for path, content in files.items():
                (partial / path).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    (partial / path).write_bytes(content)
                else:
                    shutil.copyfile(content, partial / path)
        address = str(dry_run)
    if as_json:
        print_json({"address": address, "files": sorted(files)})
    else:
        print(f"{len(files)} files are in {address}")
