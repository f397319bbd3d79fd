"""Accuracy against speed, and over several runs against sparsity, as PNG."""

from collections.abc import Sequence
from typing import Any

from cutwork.measure.interval import wilson
from cutwork.measure.report.style import GREEN, GREY, ORANGE, frame, new_figure, titled_png
from cutwork.measure.report.tables import called

# One colour per kind of model and one shape per number format, the same in every plot.
_COLOURS = {"dense": GREY, "pruned": ORANGE, "sparse": GREEN}
_DASHES = {"f32": "-", "bf16": "--", "int8": ":", "int4": ":"}
_MARKERS = {"f32": "o", "bf16": "s", "int8": "D", "int4": "D"}


def plot(results: Sequence[dict[str, Any]]) -> bytes:
    """A PNG: accuracy against decode speed, with 95% intervals where answers were counted, and, where there are
    several runs, against sparsity beside it.

    Raises CutworkError if matplotlib is not installed.
    """
    several = len(results) > 1
    figure = new_figure(13 if several else 8, 5.2)
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    _against_speed(axes[0], results)
    if several:
        _against_sparsity(axes[1], results)
    for ax in axes:
        ax.set_ylabel("accuracy, % of held-out questions")
        ax.set_ylim(bottom=0)
        frame(ax)
    machines = (f"{run['machine']['cpu']} · {run['machine']['threads']} threads" for run in results)
    return titled_png(figure, f"{results[0]['task']} · {' or '.join(dict.fromkeys(machines))}")


def _against_speed(ax: Any, results: Sequence[dict[str, Any]]) -> None:
    points: list[tuple[float, float, str]] = []
    for run in results:
        for row in run["variants"]:
            speed = row.get("decode_tokens_per_second")
            if speed is None:
                continue
            kind, _, form = row["name"].partition("-")
            x, y = speed, 100 * row["accuracy"]
            ax.scatter(x, y, s=70, color=_COLOURS.get(kind, "#888"), marker=_MARKERS.get(form, "o"), zorder=3)
            if "samples" in row:
                low, high = (100 * end for end in wilson(row["right"], row["samples"]))
                ax.errorbar(x, y, [[y - low], [high - y]], color="#bbb", linewidth=1.2, capsize=3, zorder=2)
            label = called(run, row["name"]).replace("-", " ")
            if kind != "dense":
                label += f" {row['sparsity']:.0%}"
            if label not in (text for _, _, text in points):  # runs may share their dense model
                points.append((x, y, label))
    ax.set_xlabel("decode, tokens per second")
    ax.margins(0.12, 0.15)
    ax.set_xlim(left=0)
    _label(ax, points)


def _against_sparsity(ax: Any, results: Sequence[dict[str, Any]]) -> None:
    """One line per kind and number format through the runs, dense models as horizontal lines."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in results:
        for row in run["variants"]:
            lines.setdefault(called(run, row["name"]), []).append((100 * row["sparsity"], 100 * row["accuracy"]))
    for name, line in sorted(lines.items()):
        kind, _, form = name.partition("-")
        colour, dashes = _COLOURS.get(kind, "#888"), _DASHES.get(form, "-")
        label = name.replace("-", " ")
        if kind == "dense":
            ax.axhline(max(y for _, y in line), color=colour, linestyle=dashes, linewidth=1.2, label=label)
            continue
        line.sort()
        ax.plot(*zip(*line, strict=True), color=colour, linestyle=dashes, marker=_MARKERS.get(form, "o"), label=label)
    ax.set_xlabel("zeros in the linears of the blocks, %")
    ax.legend(frameon=False, fontsize=8)


def _label(ax: Any, points: list[tuple[float, float, str]]) -> None:
    """Write each label at the first place around its point where it covers neither a point nor another label."""
    figure = ax.figure
    ax.set_xlim(ax.get_xlim())
    ax.set_ylim(0, ax.get_ylim()[1])
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    taken = [_around(ax.transData.transform((x, y)), 8) for x, y, _ in points]
    offsets = [(10, 8), (10, -16), (-10, 8), (-10, -16), (0, 14), (0, -22), (14, 22), (14, -30), (-14, 22), (-14, -30)]
    for x, y, text in points:
        for dx, dy in offsets:
            align = "left" if dx > 0 else "right" if dx < 0 else "center"
            note = ax.annotate(
                text, (x, y), xytext=(dx, dy), textcoords="offset points", ha=align, fontsize=8.5, zorder=4
            )
            box = note.get_window_extent(renderer)
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 + 40
            if inside and not any(box.overlaps(other) for other in taken):
                break
            if (dx, dy) != offsets[-1]:
                note.remove()
        taken.append(box)


def _around(point: Any, radius: float) -> Any:
    from matplotlib.transforms import Bbox

    x, y = point
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)
