"""`cutwork chat`: talk to a model in the terminal."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cutwork.cli.loading import ModelArgument, loads_model
from cutwork.cli.options import Seed, Temperature, TopP
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions


@loads_model()
def chat(
    model: ModelArgument,
    loading: "LoadOptions",
    system: Annotated[str | None, typer.Option(help="A system message that opens the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens per answer.")] = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.9,
    seed: Seed = None,
) -> None:
    """Chat with a model. /reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer.

    Example: [bold]cutwork chat out/smollm2-gsm/packed/sparse-int8 --system "Answer briefly."[/bold]
    """
    from cutwork.engine.model import Model

    console = Console()
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    with Model.load(model, **loading) as loaded:
        console.print(f"[dim]{model}: /reset forgets, /exit leaves[/dim]")
        while True:
            try:
                line = console.input("[bold cyan]you> [/]") if sys.stdin.isatty() else _next_line()
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
            if line.strip() in ("/exit", "/quit"):
                return
            if line.strip() == "/reset":
                messages = list(opening)
                continue
            if not line.strip():
                continue
            messages.append({"role": "user", "content": line})
            answer = ""
            try:
                for piece in loaded.chat(
                    messages,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    seed=seed,
                    stream=True,
                ):
                    answer += piece
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            except KeyboardInterrupt:
                console.print("[dim] (stopped)[/dim]", end="")
            except CutworkError as error:
                messages.pop()
                console.print(f"[red]{error}[/red] [dim]/reset starts anew[/dim]", end="")
            print()
            if answer:
                messages.append({"role": "assistant", "content": answer})


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
