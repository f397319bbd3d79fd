"""`cutwork chat`: talk to a model in the terminal."""

import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cutwork.cli.loading import (
    AdapterOption,
    ModelArgument,
    check_writes_text,
    loads_model,
    tell_layouts,
    with_adapter,
    with_draft,
)
from cutwork.cli.options import MinP, RepetitionPenalty, Seed, Temperature, TopK, TopP, given
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.chat.reader import Part
    from cutwork.engine.load_options import LoadOptions

_USUAL = {"temperature": 0.7, "top_p": 0.9}  # where a model says nothing of how tokens are drawn


@loads_model()
def chat(
    model: ModelArgument,
    loading: "LoadOptions",
    adapter: AdapterOption = None,
    system: Annotated[str | None, typer.Option(help="A system message that opens the conversation.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Tokens per answer.")] = 2048,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = None,
    think: Annotated[
        bool | None, typer.Option("--think/--no-think", help="Think first, or not; default: what the model does.")
    ] = None,
    thinking_budget: Annotated[int | None, typer.Option(min=0, help="Tokens of a thought at most.")] = None,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Show thoughts as they come, not folded.")] = False,
) -> None:
    """Chat with a model. /reset forgets the conversation, /thoughts shows the last thought, /exit (or Ctrl-D) leaves,
    Ctrl-C stops an answer. Tokens are drawn as the model's generation_config.json says, which options override; if it
    says nothing of it, with --temperature 0.7 and --top-p 0.9.

    Example: [bold]cutwork chat Qwen/Qwen3-0.6B --system "Answer briefly."[/bold]
    """
    from cutwork.engine.chat.answer_parts import answer_parts
    from cutwork.engine.model import Model

    console = Console()
    opening = [{"role": "system", "content": system}] if system else []
    messages: list[dict[str, Any]] = list(opening)
    shown = _Shown(console, thoughts)
    with Model.load(model, **with_adapter(with_draft(loading, model) | {"max_batch": 1}, adapter)) as loaded:
        check_writes_text(loaded)
        tell_layouts(model, loaded)
        usual = {"temperature": 1.0, **loaded.usual_sampling} if loaded.usual_sampling else _USUAL  # 1: as serve draws
        options = given(**usual) | given(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        if sys.stdin.isatty() and sys.stdout.isatty():
            console.print(f"{model}: /reset forgets, /exit leaves", style="dim", markup=False)
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
                console.print("forgotten", style="dim")
                continue
            if line.strip() == "/thoughts":
                console.print(shown.thought or "there was none", style="dim", markup=False)
                continue
            if not line.strip():
                continue
            if re.fullmatch(r"/[a-z]+", line.strip()):
                console.print("there are /reset, /thoughts and /exit", style="dim")
                continue
            messages.append({"role": "user", "content": line})
            shown.begin()
            try:
                shown.all(
                    answer_parts(
                        loaded,
                        messages,
                        think=think,
                        thinking_budget=thinking_budget,
                        **options,
                    )
                )
            except KeyboardInterrupt:
                console.print("[dim] (stopped)[/dim]", end="")
            except CutworkError as error:
                if not sys.stdin.isatty():
                    raise  # nobody is there to start anew, and a script reads the status
                console.print(Text.assemble((str(error), "red"), (" /reset starts anew", "dim")), end="")
            print()
            if shown.answer:
                messages.append({"role": "assistant", "content": shown.answer})
            elif messages and messages[-1]["role"] == "user":
                messages.pop()  # or the next turn would be the second of the user's in a row


class _Shown:
    """An answer on its way to the terminal; its thought is folded to one line unless it is to be shown."""

    def __init__(self, console: Console, thoughts: bool) -> None:
        self._console, self._thoughts = console, thoughts
        self.begin()

    def begin(self) -> None:
        """Nothing has been answered yet."""
        self.answer = self.thought = ""
        self._began, self._folding = time.monotonic(), False

    def all(self, parts: "Iterator[Part]") -> None:
        """Show the parts as they come."""
        for part in parts:
            if part.kind == "reasoning":
                self._think(part.text)
                continue
            self._fold()
            if part.kind == "content":
                self.answer += part.text
                sys.stdout.write(part.text)
                sys.stdout.flush()
        self._fold()

    def _think(self, text: str) -> None:
        self.thought += text
        self._folding = True
        if self._thoughts:
            self._console.print(text, style="dim", end="", markup=False, highlight=False)
        elif self._console.is_terminal:
            self._line(f"thinking… {time.monotonic() - self._began:.0f} s, {len(self.thought.split())} words")

    def _fold(self) -> None:
        """The end of a thought."""
        if not self._folding:
            return
        self._folding = False
        if self._thoughts:
            self._console.print("\n")
        elif self._console.is_terminal:
            self._line(f"thought for {time.monotonic() - self._began:.0f} s; /thoughts shows it")
            self._console.print()

    def _line(self, text: str) -> None:
        """Write over the present line."""
        self._console.file.write("\r\x1b[K")
        self._console.print(text, style="dim", end="", highlight=False)


def _next_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
