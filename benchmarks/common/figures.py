"""How plots of benchmarks look: as those of runs, with what several of them compare always drawn alike."""

from pathlib import Path
from typing import Any

from cutwork.measure.report.style import BLUE, GREEN, GREY, ORANGE, frame, new_figure

__all__ = [
    "BLUE",
    "CYAN",
    "GREEN",
    "GREY",
    "ORANGE",
    "PEER",
    "PURPLE",
    "RED",
    "STYLES",
    "frame",
    "level",
    "new_figure",
    "save",
]

PURPLE, RED, CYAN = "#b48ead", "#bf616a", "#88c0d0"
PEER = GREY
STYLES = {  # colour, marker, line of what a model has been through
    "one-shot": (ORANGE, "o", "-"),
    "CE": (BLUE, "s", "-"),
    "CE+KL": (PURPLE, "^", "-"),
    "SquareHead": (GREEN, "o", "-"),
    "SquareHead W8A8": (GREEN, "D", ":"),
}


def level(ax: Any, value: float, label: str, line: str = "--") -> None:
    """What others are measured by, as a line across."""
    ax.axhline(value, color=GREY, linestyle=line, linewidth=1.2, label=label)


def save(figure: Any, file: Path) -> None:
    figure.savefig(file, dpi=150)
