"""`cutwork batch`: a file of requests, answered offline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cutwork.cli.console import waits_for
from cutwork.cli.loading import AdaptersOption, loads_model, named_adapters, named_model, with_draft
from cutwork.cli.options import Overwrite
from cutwork.progress import progress_bar
from cutwork.store.journal import refuse_existing

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions


@loads_model(batches=True)
def batch(
    given: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model directory or Hub name; NAME=MODEL answers under a name.")
    ],
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests in OpenAI's batch format.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Where the answers go.")],
    loading: "LoadOptions",
    adapter: AdaptersOption = None,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences computed together.")] = 32,
    overwrite: Overwrite = False,
) -> None:
    """Answer every request of a file; interrupted, the same command goes on where it stopped.

    A request's "model" must be the model's name, which is its directory's unless NAME=MODEL gives another, or an
    adapter's, or be left out.

    Example: [bold]cutwork batch out/smollm2-gsm/packed/sparse-int8 questions.jsonl answers.jsonl[/bold]

    Example: [bold]cutwork batch gpt-4o-mini=out/packed questions.jsonl answers.jsonl[/bold]  (as the file's requests
    call it)
    """
    refuse_existing(output, overwrite, source)
    from cutwork.engine.model import Model
    from cutwork.serve.batch import check_models, read_requests, run_batch

    adapters = named_adapters(adapter)
    name, model = named_model(given)
    check_models(read_requests(source), (name, *adapters))  # what is wrong is told before the model is loaded
    console = Console(stderr=True)
    with progress_bar(console) as bar:
        task = bar.add_task("answering", total=None)
        loaded = Model.load(model, **(with_draft(loading, model) | {"max_batch": max_batch, "adapters": adapters}))
        try:
            result = run_batch(
                {name: loaded},
                source,
                output,
                adapters={name: Path(path) for name, path in adapters.items()},
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                waits=waits_for(bar.console, output),
            )
        finally:
            loaded.close()
    resumed = f", {result['resumed']} from before" if result["resumed"] else ""
    failed = f", {result['failed']} refused (their answers say why)" if result["failed"] else ""
    console.print(
        f"{result['answered']} answered{failed}{resumed}: {output}", highlight=False, markup=False, soft_wrap=True
    )
    if result["failed"] and not result["answered"] and not result["resumed"]:
        raise typer.Exit(1)
