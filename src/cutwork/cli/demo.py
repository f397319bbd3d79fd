"""`cutwork demo`: a sparse model beside the dense one that it was made of."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cutwork.cli.console import Listing, print_json
from cutwork.cli.options import Json
from cutwork.errors import CutworkError

_RUN = "out/demo"  # where `make demo` leaves its models


@dataclass
class Answer:
    """One model's side. Seconds; tokens after the first count for the speed; `memory` is the weights' bytes."""

    model: str
    zeros: float
    memory: int
    accuracy: float
    text: str = ""
    first_token_seconds: float = 0.0
    tokens_per_second: float = 0.0


def demo(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="What cutwork run left: its directory, or hf:OWNER/NAME of the Hub.")
    ] = _RUN,
    question: Annotated[
        str | None,
        typer.Option("--question", "-q", help="What to ask; default: a held-out question of the run's task."),
    ] = None,
    dense: Annotated[str, typer.Option(help="The run's packed model on the left.")] = "dense-int8",
    sparse: Annotated[str, typer.Option(help="The run's packed model on the right.")] = "sparse-int8",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=2, help="Tokens per answer.")] = 160,
    threads: Annotated[int, typer.Option("--threads", "-t", min=0, help="0: every CPU this process may use.")] = 0,
    as_json: Json = False,
) -> None:
    """Ask a dense model and its sparse self the same question, one after the other, and show both side by side: text,
    tokens per second, memory, and the accuracy that the run measured. Trains nothing and needs no torch.

    Example: [bold]cutwork demo[/bold]  (what `make demo` left)

    The models answer questions of the run's task, and no others. Those of `make demo` know one kind:

    Example: [bold]cutwork demo -q "A juggler can juggle 40 balls. 75% of the balls are golf balls, and 50% of the golf
    balls are red. How many red golf balls are there?"[/bold]
    """
    from cutwork.measure.report.results import load_results
    from cutwork.store.examples import read_examples

    directory = _directory(run)
    results = load_results(directory)
    known = {row["name"]: row for row in results["variants"]}
    there = [name for name in known if (directory / "packed" / name).is_dir()]
    for name in (dense, sparse):
        if name not in there:
            raise CutworkError(f"{directory} has no packed model '{name}'; it has {', '.join(there) or 'none'}")
    question = question or next(iter(read_examples(directory / "packed" / sparse)), None)
    if question is None:
        raise CutworkError(f"the models of {directory} have no examples of their task; give a question with --question")
    console = Console(stderr=as_json, highlight=False)
    console.print(f"models of {directory}; {results['task']}", style="dim", markup=False)
    console.print(Panel(Text(question), title="question", title_align="left", border_style="dim"))
    answers = [
        Answer(name, known[name]["sparsity"], known[name]["memory_bytes"], known[name]["accuracy"])
        for name in (dense, sparse)
    ]
    with Live(_panels(answers), console=console, refresh_per_second=12, transient=not console.is_terminal) as live:
        for answer in answers:
            _ask(directory / "packed" / answer.model, question, answer, max_new_tokens, threads, live, answers)
    if not console.is_terminal and not as_json:
        console.print(_panels(answers))
    if as_json:
        print_json({"question": question, "answers": [asdict(answer) for answer in answers]})
        return
    console.print(_table(answers, results))


def _directory(run: str) -> Path:
    """Where a run lies. Raises CutworkError, saying how to get one, if there is none."""
    from cutwork.store import hub
    from cutwork.store.resolve import HUB

    if run.startswith(HUB):
        name, _, revision = run.removeprefix(HUB).partition("@")
        return hub.download(name, revision or None, folders=True)
    path = Path(run).expanduser()
    if not path.is_dir():
        raise CutworkError(
            f"there is no run in {path}; make one with: make demo (in a clone), or cutwork run RECIPE, "
            f"or name one of the Hub as {HUB}OWNER/NAME"
        )
    return path


def _ask(path: Path, question: str, answer: Answer, most: int, threads: int, live: Live, all_: list[Answer]) -> None:
    """Have the packed model at `path` answer with at most `most` tokens, and show every step."""
    from cutwork.engine.model import Model
    from cutwork.measure.quality import prompt_tokens
    from cutwork.tasks.task import Sample

    with Model.load(path, threads=threads, max_batch=1) as model:
        model.generate("Hello", max_new_tokens=2)  # the first steps of a process are slower than any after
        prompt = prompt_tokens(model, Sample(question, ""))  # as the run asked it
        request = model.session.add(prompt, max_new_tokens=most)
        start = time.perf_counter()
        first = start
        while model.session.busy:
            model.session.step()
            now = time.perf_counter()
            if len(request.tokens) <= 1:
                first = now
            answer.text = request.text
            answer.first_token_seconds = first - start
            answer.tokens_per_second = (len(request.tokens) - 1) / (now - first) if now > first else 0.0
            live.update(_panels(all_))
        request.raise_error()


def _panels(answers: list[Answer]) -> Table:
    def panel(answer: Answer) -> Panel:
        speed = f"{answer.tokens_per_second:.0f} tokens/s" if answer.tokens_per_second else " "
        title = f"[bold]{answer.model}[/bold], {answer.zeros:.0%} zeros"
        colour = "green" if answer.zeros else "blue"
        return Panel(Text(answer.text or "…"), title=title, subtitle=speed, border_style=colour, title_align="left")

    grid = Table.grid(expand=True)
    for _ in answers:
        grid.add_column(ratio=1)
    grid.add_row(*map(panel, answers))
    return grid


def _table(answers: list[Answer], results: dict[str, Any]) -> Listing:
    machine = results["machine"]
    title = f"accuracy: measured by the run on {machine['cpu']}; speed: this one answer, here"
    result = Listing(title, "model", "zeros|memory MB|first token ms|tokens/s|accuracy")
    for answer in answers:
        result.add_row(
            answer.model,
            f"{answer.zeros:.0%}",
            f"{answer.memory / 1e6:.0f}",
            f"{1e3 * answer.first_token_seconds:.0f}",
            f"{answer.tokens_per_second:.0f}",
            f"{answer.accuracy:.1%}",
        )
    return result
