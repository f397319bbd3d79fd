"""How all plots look: their colours, their frames, and what they are drawn on. matplotlib is needed only to draw."""

from io import BytesIO
from typing import Any

from cutwork.errors import CutworkError
from cutwork.extras import install

GREEN, GREY, BLUE, ORANGE = "#2a7f62", "#4c566a", "#5e81ac", "#d08770"


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches, whose layout finds its own margins; CutworkError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise CutworkError(f"plots need matplotlib; install it with: {install('eval')}") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def frame(ax: Any, grid: bool = True) -> None:
    """Two sides of the frame, and a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(alpha=0.25)


def titled_png(figure: Any, title: str) -> bytes:
    """The figure as a PNG, its title at the top left."""
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
