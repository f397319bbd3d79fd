"""How all plots look: their colours, their frames, and how they are written."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

GREEN, GREY, BLUE, ORANGE, PURPLE, RED = "#2a7f62", "#4c566a", "#5e81ac", "#d08770", "#b48ead", "#bf616a"
CYAN = "#88c0d0"
OURS, PEER = GREEN, GREY
STYLES = {  # colour, marker, line of what a model has been through
    "one-shot": (ORANGE, "o", "-"),
    "CE": (BLUE, "s", "-"),
    "CE+KL": (PURPLE, "^", "-"),
    "SquareHead": (GREEN, "o", "-"),
    "SquareHead W8A8": (GREEN, "D", ":"),
}


def new_figure(width: float, height: float) -> Figure:
    """Inches; the layout finds its own margins."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def frame(ax: Any, grid: bool = True) -> None:
    """Two sides of the frame, and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(alpha=0.25)


def level(ax: Any, value: float, label: str, line: str = "--") -> None:
    """What others are measured by, as a line across."""
    ax.axhline(value, color=GREY, linestyle=line, linewidth=1.2, label=label)


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=150)
