"""How commands print JSON, and tables: never squeezed below what can be read, also where the output is a pipe."""

import json
import re
from collections.abc import Callable
from functools import partial

from rich import box
from rich.console import Console
from rich.table import Table

_NUMBERS = re.compile(r"\[((?:\s+-?\d[\d.eE+-]*,?)+)\s+\]")
_WIDTH = 132  # of a terminal narrower than this the lines wrap, which reads better than columns of three letters


def console() -> Console:
    """Standard output, wide enough for the tables."""
    out = Console(highlight=False)
    return Console(width=max(out.width, _WIDTH), highlight=False)


def waits_for(console: Console, output: object) -> Callable[[], None]:
    """Says on a console that another process has to be waited for."""
    return partial(console.print, f"another process is writing {output}; waiting for it", highlight=False)


def print_json(value: object) -> None:
    """What `--json` prints: a line for each value, but lists of numbers, such as tokens, in one."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    print(_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text))


def table(title: str, text_columns: str, number_columns: str) -> Table:
    """A table with columns named in `|`-separated lists: text left, numbers right."""
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in text_columns.split("|"):
        result.add_column(name, overflow="fold")
    for name in number_columns.split("|"):
        result.add_column(name, justify="right", no_wrap=True)
    return result
