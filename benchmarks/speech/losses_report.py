"""What benchmarks.speech.losses showed: its tables, its intervals and its picture."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import figures
from benchmarks.evidence.statistics import paired_bootstrap

NAMES = ("CE", "SquareHead", "SquareHead + KL")
SEEDS = (0, 1, 2)
PEOPLE = ("reader", "other")  # what is published of, read by people; machines read the third split
CONTROL = "dense, trained on"
Model = tuple[str, str | None, float, str]  # method, pruner, zeros, kind
Result = dict[str, Any]


def found_results(results: Path) -> dict[int, Result]:
    """The results of the seeds that ran, by seed."""
    files = {seed: results / f"whisper_losses_{seed}.json" for seed in SEEDS}
    return {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}


def grouped(*results: Result) -> dict[Model, dict[int | None, dict[str, Any]]]:
    """The rows of each model by seed, None where it has none."""
    found: dict[Model, dict[int | None, dict[str, Any]]] = defaultdict(dict)
    for result in results:
        for row in result["rows"]:
            found[row["method"], row["pruner"], row["level"], row["kind"]].setdefault(row["seed"], row)
    return dict(sorted(found.items(), key=lambda item: item[0][2]))


def rate(rows: list[dict[str, Any]], split: str, words: dict[str, list[int]]) -> float:
    """Wrong words of a split, %, over the seeds."""
    return 100 * float(np.mean([sum(row["errors"][split]) for row in rows])) / sum(words[split])


def table(*results: Result) -> str:
    """Word error rates of every model, packed in float32 and in int8, over its seeds, and the distance to dense."""
    words, models = results[0]["words"], grouped(*results)
    heads = [f"{name} ({sum(words[name]):,} words)" for name in words]
    lines = [
        "| model | pruner | zeros | rate | seeds | "
        + " | ".join(heads)
        + " | both readers in int8 | minus dense, both readers [95%] |",
        "|---|---|--:|--:|--:|" + "--:|" * (len(heads) + 2),
    ]
    dense = models["dense", None, 0.0, "f32"]
    for (method, pruner, level, kind), by_seed in models.items():
        if kind != "f32":
            continue
        rows = list(by_seed.values())
        rounded = models.get((method, pruner, level, "int8"), {})
        apart = "" if method in ("dense", "as published") else shown(points(by_seed, dense, words))
        cells = [
            method,
            {"alps": "ALPS", "sparsegpt": "SparseGPT"}.get(pruner or "", ""),
            f"{level:.0%}",
            f"{rows[0]['rate']:g}" if rows[0].get("rate") else "",
            str(len(rows)),
            *(f"{rate(rows, split, words):.1f}" for split in words),
            f"{both(list(rounded.values()), words):.1f}" if rounded else "",
            apart,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(*results: Result) -> str:
    """Each loss with SquareHead beside cross-entropy alone, and fine-tuning beside none, with as many steps."""
    words, models = results[0]["words"], grouped(*results)
    lines = [
        "| zeros | pruner | compared, float32 | seeds | the reader of training [95%] | another reader [95%] "
        "| both [95%] |",
        "|--:|---|---|--:|--:|--:|--:|",
    ]
    for (method, pruner, level, kind), ours in models.items():
        if kind != "f32" or method not in NAMES:
            continue
        for against in ("one-shot", "CE"):
            theirs = models.get((against, pruner, level, kind))
            if method == against or not theirs:
                continue
            seeds = len(_pairs(ours, theirs))
            apart = [shown(points(ours, theirs, words, splits)) for splits in (("reader",), ("other",), PEOPLE)]
            name = {"alps": "ALPS", "sparsegpt": "SparseGPT"}[pruner or ""]
            lines.append(f"| {level:.0%} | {name} | {method} minus {against} | {seeds} | {' | '.join(apart)} |")
    return "\n".join(lines)


def choices(*results: Result) -> str:
    """What was chosen on validation."""
    rows = [row for result in results for row in result["choices"]]
    lines = ["| loss | " + " | ".join(f"{each:g}" for each in sorted({row["rate"] for row in rows})) + " |"]
    rates = sorted({row["rate"] for row in rows})
    lines.append("|---|" + "--:|" * len(rates))
    for loss in NAMES:
        found = {row["rate"]: 100 * row["errors"] / row["words"] for row in rows if row["loss"] == loss}
        best = min(found.values(), default=0.0)
        cells = [
            (f"**{found[r]:.1f}**" if found[r] == best else f"{found[r]:.1f}") if r in found else "" for r in rates
        ]
        lines.append(f"| {loss} | {' | '.join(cells)} |")
    return "\n".join(lines)


def both(rows: list[dict[str, Any]], words: dict[str, list[int]]) -> float:
    """Wrong words of what people read, %, over the seeds."""
    wrong = np.mean([sum(sum(row["errors"][split]) for split in PEOPLE) for row in rows])
    return 100 * float(wrong) / sum(sum(words[split]) for split in PEOPLE)


def points(
    ours: dict[int | None, dict[str, Any]],
    theirs: dict[int | None, dict[str, Any]],
    words: dict[str, list[int]],
    splits: tuple[str, ...] = PEOPLE,
) -> tuple[float, float, float]:
    """How many more of a hundred words ours have wrong, with its interval over recordings and seeds."""
    length = np.concatenate([words[split] for split in splits])
    recording = np.repeat(np.arange(len(length)), length)  # of every word: a recording is drawn whole

    def wrong(row: dict[str, Any]) -> NDArray[np.float64]:
        errors = np.concatenate([row["errors"][split] for split in splits])
        each: NDArray[np.float64] = np.repeat(errors / np.maximum(length, 1), length)
        return each

    pairs = _pairs(ours, theirs)
    first, second = (np.stack([wrong(pair[i]) for pair in pairs]) for i in (0, 1))
    mean, low, high = paired_bootstrap(first, second, alike=recording.tolist())
    return 100 * mean, 100 * low, 100 * high


def shown(interval: tuple[float, float, float]) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*interval)


def _pairs(
    ours: dict[int | None, dict[str, Any]], theirs: dict[int | None, dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of the seeds that both have; what has no seed is held against each of the other's."""
    if None in theirs:
        return [(row, theirs[None]) for row in ours.values()]
    return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]


def plot(results: list[Result], file: Path) -> None:
    """Wrong words of both readers at each level, one panel for each pruner."""
    words, models = results[0]["words"], grouped(*results)
    styles = {
        "one-shot": figures.STYLES["one-shot"],
        "CE": figures.STYLES["CE"],
        "SquareHead": figures.STYLES["SquareHead"],
        "SquareHead + KL": figures.STYLES["CE+KL"],
    }
    titles = {"reader": "the reader of training, other sentences", "other": "another reader"}
    figure = figures.new_figure(11, 4.4)
    for ax, split in zip(figure.subplots(1, len(PEOPLE), squeeze=False)[0], PEOPLE, strict=True):
        figures.level(ax, rate(list(models["dense", None, 0.0, "f32"].values()), split, words), "dense")
        for method, (colour, marker, dashes) in styles.items():
            line = [
                (100 * level, rate([row], split, words))
                for (name, pruner, level, kind), by_seed in models.items()
                if (name, pruner, kind) == (method, "alps", "f32")
                for row in by_seed.values()
            ]
            if line:
                levels = sorted({x for x, _ in line})
                means = [float(np.mean([y for x, y in line if x == level])) for level in levels]
                ax.plot(levels, means, color=colour, linestyle=dashes, label=method)
                ax.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle="none", alpha=0.6)
        ax.set(xlabel="zeros in the linears of the blocks, % (ALPS)", ylabel="wrong words, %", title=titles[split])
        ax.set_ylim(bottom=0)
        figures.frame(ax)
    figure.axes[0].legend(frameon=False)
    figures.save(figure, file)
