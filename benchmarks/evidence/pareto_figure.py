"""The figure of `pareto`: every kind of file by its speed and its answers."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import figures
from benchmarks.evidence.statistics import right_share

Group = Sequence[dict[str, Any]]  # models that differ in their seed only
_KINDS = {"dense, ours": figures.BLUE, "zeros, ours": figures.GREEN, "others": figures.PEER}
_REACH = (10, 24, 38)  # of a label, in points


def speed(group: Group, key: str) -> float:
    """The median over all rounds and seeds."""
    return float(np.median([value for model in group for value in model.get(key, ())]))


def plot(groups: Sequence[tuple[str, Group]], threads: int, file: Path) -> None:
    """Accuracy against tokens/s of one stream, the area of a point its bytes; bars are 95% intervals."""
    figure = figures.new_figure(8.0, 5.0)
    ax = figure.subplots()
    points, seen = [], set()
    for name, group in groups:
        x = speed(group, f"decode, {threads} threads")
        if "right" not in group[0]:  # how fast it is can be told
            ax.axvline(x, color=figures.PEER, linewidth=0.8, linestyle=":")
            label = {"rotation": 90, "fontsize": 6.5, "color": figures.PEER, "ha": "right", "va": "bottom"}
            ax.text(x, 0.01, f"{name} (not asked)", transform=ax.get_xaxis_transform(), **label)
            continue
        mean, low, high = (100 * value for value in right_share(group))
        ours = "zeros, ours" if group[0]["zeros"] else "dense, ours"
        kind = ours if group[0]["engine"] == "cutwork" else "others"
        seen.add(kind)
        colour = _KINDS[kind]
        ax.errorbar(x, mean, [[mean - low], [high - mean]], color=colour, linewidth=0.8, alpha=0.6)
        ax.scatter(x, mean, s=group[0]["bytes"] / 1e6 / 2, color=colour)
        points.append((x, mean, name.removeprefix("cutwork "), colour))
    one = any(len(group) > 1 and group[0]["engine"] == "cutwork" for _, group in groups)
    for kind in (kind for kind in _KINDS if kind in seen):
        ax.scatter([], [], color=_KINDS[kind], label=f"{kind}, of one seed" if one and kind == "others" else kind)
    ax.legend(frameon=False, loc="best", fontsize=8)
    ax.set(
        xlabel=f"tokens/s of one stream, {threads} thread{'s' * (threads > 1)} (area of a point: size of the file)",
        ylabel="right answers, % (bars: 95%; does not begin at 0)",
    )
    ax.set_xlim(0, ax.get_xlim()[1] * 1.2)
    figures.frame(ax)
    _label(figure, ax, points)
    figures.save(figure, file)


def _label(figure: Any, ax: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside points, each where it covers the least of what is there."""
    figure.canvas.draw()  # or texts have no extent yet
    taken = [ax.transData.transform((x, y)) + np.array([[-6], [6]]) for x, y, *_ in points]
    taken = [np.array([box.min(0), box.max(0)]) for box in taken]
    inside = ax.get_window_extent()
    for x, y, name, colour in sorted(points, key=lambda point: -point[1]):
        best: tuple[float, Any, Any] | None = None
        for reach, (side, rise) in product(_REACH, ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))):
            text = ax.annotate(
                name,
                (x, y),
                xytext=(side * min(reach, 12), rise * reach),
                textcoords="offset points",
                fontsize=7.5,
                color=colour,
                ha="left" if side > 0 else "right",
                va="center",
            )
            box = text.get_window_extent(figure.canvas.get_renderer())
            corners = np.array([[box.x0, box.y0], [box.x1, box.y1]])
            covered = sum(_overlap(corners, other) for other in taken) + box.width * box.height
            covered -= _overlap(corners, np.array([[inside.x0, inside.y0], [inside.x1, inside.y1]])) - reach
            if best is None or covered < best[0]:
                if best:
                    best[1].remove()
                best = (covered, text, corners)
            else:
                text.remove()
        assert best
        taken.append(best[2])


def _overlap(one: Any, other: Any) -> float:
    """Area that two boxes [[left, bottom], [right, top]] share."""
    return float(np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None).prod())
