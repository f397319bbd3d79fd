"""How commands print JSON, and tables: whole into a pipe, and in a narrow terminal without what matters least."""

import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_NUMBERS = re.compile(r"\[((?:\n +-?\d[\d.eE+-]*,?)+)\n *\]")  # within texts line ends are escaped
_BREAKS = re.compile(r"(?<=[./,-])(?! )|(?<= )")  # behind these a long name may go on in the next line
_UNBOUNDED = 1 << 16
_GAP = 2


def console() -> Console:
    """Standard output: as wide as the terminal, or, as nothing is lost in a pipe, as what is printed."""
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _UNBOUNDED
    return out


def waits_for(console: Console, output: object) -> Callable[[], None]:
    """Says on a console that another process has to be waited for."""
    return partial(console.print, f"another process is writing {output}; waiting for it", highlight=False)


def print_json(value: object) -> None:
    """What `--json` prints: a line for each value, but lists of numbers, such as tokens, in one."""
    any_letter = (sys.stdout.encoding or "utf-8").lower() in ("utf-8", "utf8")
    text = json.dumps(value, ensure_ascii=not any_letter, indent=1)
    print(_NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text))


class Listing:
    """A table with columns named in `|`-separated lists: text left, numbers right.

    Where it is too wide for a terminal, columns are left out in the order of `dispensable`, as a last line says, and
    names in the first column take a second line, broken behind a dot, slash, comma or hyphen.
    """

    def __init__(self, title: str, text_columns: str, number_columns: str, dispensable: str = "") -> None:
        self._title = title
        self._texts, self._numbers = text_columns.split("|"), number_columns.split("|")
        self._dispensable = dispensable.split("|") if dispensable else []
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *cells: str) -> None:
        """A cell for each column; none is taken for markup."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = dict(zip((*self._texts, *self._numbers), zip(*self._rows, strict=True), strict=True))
        names = columns.pop(self._texts[0])
        needed = max(map(_in_two_lines, names))
        left_out: list[str] = []
        while (
            room := options.max_width - sum(map(_width, columns.items()))
        ) < needed and self._dispensable != left_out:
            left_out.append(self._dispensable[len(left_out)])
            del columns[left_out[-1]]
        table = Table(
            title=self._title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, _GAP - 1, 0, 0),
        )
        table.add_column(self._texts[0], overflow="fold")
        for name in columns:
            number = name in self._numbers
            table.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
        for name, *cells in zip(names, *columns.values(), strict=True):
            table.add_row(*map(Text, (_broken(name, room), *cells)))
        yield table
        if left_out:
            yield Text(f"no room in this terminal for: {', '.join(left_out)}", style="dim")


def _width(column: tuple[str, tuple[str, ...]]) -> int:
    """What a column takes beside others."""
    name, cells = column
    return _GAP + max(map(cell_len, (name, *cells)))


def _in_two_lines(name: str) -> int:
    """The least width in which a name takes no more than two lines."""
    return min((max(found.start(), len(name) - found.start()) for found in _BREAKS.finditer(name)), default=len(name))


def _broken(name: str, width: int) -> str:
    lines = [""]
    for part in _BREAKS.split(name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
