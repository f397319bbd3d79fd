"""What the T5 that learned to translate showed: its tables, its intervals and its picture."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import figures
from benchmarks.translation.bleu import bleu_interval, counts

CONTROL = "dense, trained on"
_HELD_AGAINST = {"CE": ("teacher", CONTROL), "SquareHead": ("teacher", CONTROL, "CE")}


def differences(rows: list[dict[str, Any]], references: list[str]) -> list[dict[str, Any]]:
    """BLEU of what is compared, over sentences and the seeds that both have: each model with the teacher, what is
    trained with the dense model trained on for as long, and SquareHead with cross-entropy."""
    found = {(row["method"], row["level"], row["seed"]): counts(row["beam"]["replies"], references) for row in rows}
    teacher = found["teacher", 0.0, None]
    result = []
    for method, level in dict.fromkeys((method, level) for method, level, _ in found if method != "teacher"):
        seeds = [seed for name, at, seed in found if (name, at) == (method, level)]
        for other in _HELD_AGAINST.get(method, ("teacher",)):
            at = 0.0 if other == CONTROL else level
            theirs = {seed: teacher if other == "teacher" else found.get((other, at, seed)) for seed in seeds}
            pairs = {seed: (found[method, level, seed], each) for seed, each in theirs.items() if each is not None}
            if pairs:
                bleu, low, high = bleu_interval(*zip(*pairs.values(), strict=True))
                interval = {"bleu": bleu, "low": low, "high": high}
                result.append({"method": method, "level": level, "against": other, "seeds": list(pairs), **interval})
    return result


def table(result: dict[str, Any]) -> str:
    """BLEU of every model over its seeds, and how far that is from the dense teacher's."""
    lines = [
        "| model | zeros | rate | BLEU, 5 beams, by seed | mean | minus the teacher's [95%] "
        "| minus the dense one's, trained on [95%] | chrF | all right | BLEU, greedy |",
        "|---|--:|--:|" + "--:|" * 7,
    ]
    against = {(row["method"], row["level"], row["against"]): row for row in result["differences"]}
    for (method, level), rows in _grouped(result).items():
        beams = [row["beam"] for row in rows]
        share = sum(row["right"] for row in beams) / sum(row["samples"] for row in beams)
        apart = [against.get((method, level, other)) for other in ("teacher", CONTROL)]
        cells = [
            method,
            f"{level:.0%}",
            f"{rows[0]['rate']:g}" if rows[0].get("rate") else "",
            " / ".join(f"{row['bleu']:.1f}" for row in beams),
            f"{np.mean([row['bleu'] for row in beams]):.1f}",
            *(_interval(each) if each else "" for each in apart),
            f"{np.mean([row['chrf'] for row in beams]):.1f}",
            f"{share:.1%}",
            f"{np.mean([row['greedy']['bleu'] for row in rows]):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def losses(result: dict[str, Any]) -> str:
    """SquareHead beside cross-entropy for the same time."""
    lines = ["| zeros | seeds | SquareHead minus CE, BLEU [95%] |", "|--:|--:|--:|"]
    for row in result["differences"]:
        if row["against"] == "CE":
            lines.append(f"| {row['level']:.0%} | {len(row['seeds'])} | {_interval(row)} |")
    return "\n".join(lines)


def choices(result: dict[str, Any]) -> str:
    """What was chosen on validation."""
    lines = ["| loss | rate | BLEU on validation, greedy | of |", "|---|--:|--:|--:|"]
    for row in result["choices"]:
        lines.append(f"| {row['loss']} | {row['rate']:g} | {row['bleu']:.1f} | {row['samples']} |")
    return "\n".join(lines)


def _interval(row: dict[str, Any]) -> str:
    return f"{row['bleu']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def _grouped(result: dict[str, Any]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    groups: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["method"], row["level"]].append(row)
    return groups


def plot(result: dict[str, Any], file: Path) -> None:
    figure = figures.new_figure(11, 4.4)
    quality, loss = figure.subplots(1, 2)
    groups = _grouped(result)
    for method, dashes in (("teacher", "--"), (CONTROL, ":")):
        if rows := groups.get((method, 0.0)):
            figures.level(quality, float(np.mean([row["beam"]["bleu"] for row in rows])), method, dashes)
    for method, (colour, marker, dashes) in figures.STYLES.items():
        points = [
            (100 * level, row["beam"]["bleu"])
            for (name, level), rows in groups.items()
            if name == method
            for row in rows
        ]
        if points:
            levels = sorted({x for x, _ in points})
            means = [np.mean([y for x, y in points if x == level]) for level in levels]
            quality.plot(levels, means, color=colour, linestyle=dashes, label=method)
            quality.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle="none", alpha=0.6)
    quality.set(xlabel="zeros in the linears of the blocks, %", ylabel="BLEU of held-out sentences, 5 beams")
    quality.set_ylim(bottom=0)
    for name, curve in result["curves"].items():
        method, _, percent = name.rpartition(" ")
        width = {"75%": 0.8, "85%": 1.6}.get(percent, 1.2)
        loss.plot(curve, color=figures.STYLES[method][0], linewidth=width, label=name)
    loss.set(xlabel="optimiser step of the fine-tuning", ylabel="cross entropy, smoothed", yscale="log")
    for ax in (quality, loss):
        figures.frame(ax)
        ax.legend(frameon=False, fontsize=8)
    figures.save(figure, file)
