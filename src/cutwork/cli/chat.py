"""`cutwork chat`: talk to a model in the terminal."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from cutwork.cli.options import CacheDType, Context, ModelArgument, ReorderWeights, Threads
from cutwork.errors import CutworkError


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="A system message that opens the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens per answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Keep the likeliest tokens up to this mass.")] = 0.9,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    threads: Threads = 0,
    reorder_weights: ReorderWeights = False,
    context: Context = None,
    cache_dtype: CacheDType = "auto",
) -> None:
    """Chat with a model. /reset forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer.

    Example: [bold]cutwork chat out/smollm2-gsm/packed/sparse-int8 --system "Answer briefly."[/bold]
    """
    from cutwork.engine.model import Model

    console = Console()
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    with Model.load(
        model, threads=threads, reorder_weights=reorder_weights, max_context=context, cache_dtype=cache_dtype
    ) as engine:
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
                for piece in engine.chat(
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
