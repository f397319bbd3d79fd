"""The frontier: the least error at every speed, with zeros alone, bits alone and both, as JSON, table and plot."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cutwork.compress.candidates import Candidate
from cutwork.compress.menu import HEAD, Choice, Menu
from cutwork.measure.report.style import BLUE, GREEN, GREY, ORANGE, frame, new_figure, titled_png
from cutwork.store.block_names import place

ALLOWED: dict[str, Callable[[Candidate], bool]] = {
    "zeros and bits": lambda _: True,
    "bits alone": lambda candidate: not candidate.sparsity,
    "zeros alone": lambda candidate: candidate.scheme is None,
}
_COLOURS = {"zeros and bits": GREEN, "bits alone": BLUE, "zeros alone": ORANGE}
_POINTS = 16


def frontiers(menu: Menu) -> dict[str, list[Choice]]:
    """By what is allowed, the best choices from the dense model's speed to the fastest, evenly spaced by ratio."""
    found = {}
    for name, allowed in ALLOWED.items():
        best = menu.solver(allowed=allowed)
        budgets = np.geomspace(menu.dense_milliseconds, best.least, _POINTS)
        choices = [best.within(float(budget) * (1 + 1e-6)) for budget in budgets]
        unique = {tuple(choice.labels.values()): choice for choice in choices if choice}
        found[name] = list(unique.values())
    return found


def by_kind(choice: Choice) -> dict[str, dict[str, int]]:
    """How many linears of each kind take which candidate."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, label in choice.labels.items():
        counts[place(name)[1]][label] += 1
    return {kind: dict(each.most_common()) for kind, each in counts.items()}


def as_json(found: Mapping[str, Sequence[Choice]], tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What frontier.json holds: the points of each frontier, and what was trained and measured (see `compress.py`)."""
    points = {name: [{**c.as_json(), "by_kind": by_kind(c)} for c in choices] for name, choices in found.items()}
    return {"frontiers": points, "tried": list(tried)}


def plot(found: Mapping[str, Sequence[Choice]], tried: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG: predicted KL against predicted speed-up and, of what was tried, points lost against timed speed-up.

    Raises CutworkError if matplotlib is not installed.
    """
    figure = new_figure(13 if tried else 8, 5.2)
    axes = figure.subplots(1, 2 if tried else 1, squeeze=False)[0]
    for name, choices in found.items():
        line = [(choice.speedup, choice.kl) for choice in choices if choice.kl > 0]
        if line:
            axes[0].plot(*zip(*line, strict=True), marker="o", color=_COLOURS[name], label=name)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("predicted KL before training, nats per token")
    axes[0].legend(frameon=False)
    if tried:
        x = [each["speedup"] for each in tried]
        y = [each["loss"]["points"] for each in tried]
        ends = [[each["loss"]["points"] - each["loss"]["low"] for each in tried]]
        ends.append([each["loss"]["high"] - each["loss"]["points"] for each in tried])
        colours = [GREEN if each["kept"] else ORANGE for each in tried]
        axes[1].errorbar(x, y, yerr=np.maximum(ends, 0), fmt="none", ecolor=GREY, elinewidth=1)
        axes[1].scatter(x, y, s=70, color=colours, zorder=3)
        axes[1].axhline(0, color=GREY, linewidth=1.2)
        axes[1].set_ylabel("points lost on validation, 95% interval")
    for ax, how in zip(axes, ("by prices", "timed"), strict=False):
        ax.set_xlabel(f"speed-up over the dense model in bfloat16, {how}")
        frame(ax)
    return titled_png(figure, title)


def rows(choices: Sequence[Choice]) -> list[list[str]]:
    """Cells of a table: speed-up, ms, MB, zeros, KL, the head and what most linears take."""
    found = []
    for choice in choices:
        common = Counter(label for name, label in choice.labels.items() if name != HEAD).most_common(3)
        found.append(
            [
                f"{choice.speedup:.2f}×",
                f"{choice.milliseconds:.2f}",
                f"{choice.nbytes / 1e6:.0f}",
                f"{choice.zeros:.0%}",
                f"{choice.kl:.3g}",
                choice.labels.get(HEAD, "–"),
                ", ".join(f"{count} {label}" for label, count in common),
            ]
        )
    return found
