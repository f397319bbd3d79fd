"""The tables and the figure of the first experiments, from their results."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import figures
from benchmarks.evidence.designs import LOSSES, PRIMARY
from benchmarks.evidence.pareto import Rival, rival, sparse_beside
from benchmarks.evidence.statistics import (
    alike,
    bootstrap_p,
    holm,
    mcnemar,
    paired_bootstrap,
    points_above,
    right_share,
    unpacked,
)
from benchmarks.evidence.wording import points, seeds

COLOURS = dict(zip(LOSSES, (figures.BLUE, figures.PURPLE, figures.GREEN, figures.CYAN, figures.GREY), strict=True))
Answers = NDArray[np.bool_]  # [seeds, questions]
Claim = tuple[str, str, bool | None]  # what was announced, what was found, and whether it came out
_MERIT = {False: 0, None: 1, True: 2}
_RIVALS: dict[Rival, str] = {
    "fastest": "the fastest dense 4-bit peer",
    "most accurate": "the most accurate dense 4-bit peer",
    "own": "our own dense int4",
}


def rows(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The rows that say what is wanted."""
    return [row for row in result["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def by_seed(found: list[dict[str, Any]]) -> dict[int, Answers]:
    """Right or wrong of every question, by the seed of the model that was asked."""
    return {row["seed"]: unpacked(row) for row in found}


def table(result: dict[str, Any], split: str = "test") -> str:
    """Accuracy of every kind of model: each seed and the mean, with its interval."""
    lines = [
        "| model | zeros | rate | right, by seed | mean [95%] | answers' perplexity |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in (row for row in rows(result, split=split) if "quantized" not in row["kind"]):
        groups[row["kind"], row.get("level", 0.0), row.get("loss"), row.get("rate")].append(row)
    for (kind, level, loss, rate), found in groups.items():
        shares = [row["right"] / row["samples"] for row in found]
        mean, low, high = right_share(found)
        perplexity = np.mean([row["answer_perplexity"] for row in found])
        name = {"control": f"{loss}, dense again", "equal time": f"{loss}, equal time"}.get(kind, loss or kind)
        lines.append(
            f"| {name} | {level:.0%} | {f'{rate:g}' if rate else ''} | {' / '.join(f'{x:.1%}' for x in shares)} | "
            f"{mean:.1%} [{low:.1%}, {high:.1%}] | {perplexity:.3f} |"
        )
    return "\n".join(lines)


def choices(result: dict[str, Any]) -> str:
    """What was chosen on validation: the teacher's gate, and every loss's learning rate."""
    lines = ["| model | rate | right on validation | of |", "|---|--:|--:|--:|"]
    for row in rows(result, split="validation"):
        name = f"{row['loss']}, {row['level']:.0%} zeros" if row["kind"] == "rate" else row["kind"]
        rate = f"{row['rate']:g}" if "rate" in row else ""
        lines.append(f"| {name} | {rate} | {row['right'] / row['samples']:.1%} | {row['samples']} |")
    return "\n".join(lines)


def comparisons(result: dict[str, Any]) -> str:
    """Every loss against cross-entropy, paired: difference, interval, p corrected by Holm, McNemar seed by seed."""
    head = "| zeros | against CE | questions | seeds | difference, points [95%] | p, Holm | McNemar's p, by seed |"
    lines = [head, "|--:|---|---|--:|--:|--:|--:|"]
    pairs = {}
    for level in sorted({row["level"] for row in rows(result, kind="core")} | {0.0}, reverse=True):
        for split in ("test", "unseen"):
            kind = "core" if level else "control"
            found = {loss: by_seed(rows(result, split=split, kind=kind, level=level, loss=loss)) for loss in LOSSES}
            for loss in list(LOSSES)[1:]:
                if shared := sorted(found[loss].keys() & found["CE"].keys()):
                    stacked = [np.stack([found[each][seed] for seed in shared]) for each in (loss, "CE")]
                    pairs[level, loss, split] = (stacked[0], stacked[1], alike(rows(result, split=split)))
    corrected = holm({str(key): bootstrap_p(*pair, alike=same) for key, (*pair, same) in pairs.items()})
    for (level, loss, split), (ours, theirs, same) in pairs.items():
        mean, low, high = (100 * value for value in paired_bootstrap(ours, theirs, alike=same))
        each = " / ".join(f"{mcnemar(a, b):.2g}" for a, b in zip(ours, theirs, strict=True))
        name = f"**{loss}**" if (level, loss, split) == (0.75, PRIMARY[1], "test") else loss
        lines.append(
            f"| {level:.0%} | {name} | {split} | {len(ours)} | {mean:+.1f} [{low:+.1f}, {high:+.1f}] | "
            f"{corrected[str((level, loss, split))]:.2g} | {each} |"
        )
    return "\n".join(lines)


def against_teacher(result: dict[str, Any], level: float, loss: str | None, kind: str = "core") -> tuple[float, ...]:
    """What the test's answers lose to the dense teacher's, in points: mean over seeds and its 95% interval."""
    found = by_seed(rows(result, split="test", kind=kind, level=level, loss=loss))
    ours = np.stack([found[seed] for seed in sorted(found)])
    [teacher] = rows(result, split="test", kind="teacher")
    theirs = np.broadcast_to(unpacked(teacher), ours.shape)
    return tuple(100 * x for x in paired_bootstrap(ours, theirs, alike=alike([teacher])))


def distances(result: dict[str, Any]) -> str:
    """Every kind of sparse model against the dense teacher, paired by question."""
    lines = ["| zeros | model | seeds | minus the dense teacher, points [95%] |", "|--:|---|--:|--:|"]
    kinds = {(row["level"], row["kind"], row.get("loss")): row for row in rows(result, split="test") if "seed" in row}
    for level, kind, loss in kinds:
        if kind in ("one-shot", "core"):
            mean, low, high = against_teacher(result, level, loss, kind)
            seeds = len(rows(result, split="test", kind=kind, level=level, loss=loss))
            lines.append(f"| {level:.0%} | {loss or kind} | {seeds} | {mean:+.1f} [{low:+.1f}, {high:+.1f}] |")
    return "\n".join(lines)


def primary(result: dict[str, Any]) -> tuple[int, tuple[float, float, float]]:
    """Seeds, and the primary outcome: SquareHead's answers minus cross-entropy's at 75% zeros, in points."""
    plain, both = (by_seed(rows(result, split="test", kind="core", level=0.75, loss=loss)) for loss in PRIMARY)
    seeds = sorted(plain.keys() & both.keys())
    ours, theirs = (np.stack([each[seed] for seed in seeds]) for each in (both, plain))
    mean, low, high = paired_bootstrap(ours, theirs, alike=alike(rows(result, split="test")))
    return len(seeds), (100 * mean, 100 * low, 100 * high)


def verdicts(result: dict[str, Any], pareto: dict[str, Any]) -> str:
    """What was announced as success, and whether it came out."""
    count, (mean, low, high) = primary(result)
    found = f"{points((mean, low, high))} points, {seeds(count)}"
    claims: list[Claim] = [("SquareHead ahead of CE by 2 points, clear of zero", found, mean >= 2 and low > 0)]
    for loss in PRIMARY:
        mean, low, high = against_teacher(result, 0.75, loss)
        claim = f"{loss}: at most 5 points below the dense teacher at 75%"
        claims.append((claim, f"{points((mean, low, high))} points", at_most_below(5, (mean, low, high))))
    return _announced([*claims, *pays(pareto, "fastest", "most accurate")])


def after_longer(result: dict[str, Any], pareto: dict[str, Any]) -> str:
    """The longer experiment's announced successes: the sparse model against its teacher and the dense control; and once
    more the short one's about speed."""
    [loss] = {row["loss"] for row in rows(result, kind="core")}
    control = by_seed(rows(result, split="test", kind="control", loss=loss))
    ours = by_seed(rows(result, split="test", kind="core", loss=loss))
    seeds = sorted(ours)
    stacked, dense = np.stack([ours[seed] for seed in seeds]), control[min(control)]
    same = alike(rows(result, split="test"))
    found = {
        "the dense teacher": against_teacher(result, 0.75, loss),
        "the dense model trained on for as long": tuple(
            100 * x for x in paired_bootstrap(stacked, np.broadcast_to(dense, stacked.shape), alike=same)
        ),
    }
    claims: list[Claim] = []
    for name, (mean, low, high) in found.items():
        claim = f"{loss}, 75% zeros: at most 5 points below {name}"
        theirs = ", of the dense one 1" if "as long" in name and len(control) == 1 else ""
        said = f"{points((mean, low, high))} points, seeds: {len(seeds)}{theirs}"
        claims.append((claim, said, at_most_below(5, (mean, low, high))))
    return _announced([*claims, *pays(pareto, "fastest", "most accurate")])


def _announced(claims: Sequence[Claim]) -> str:
    """The table of what was announced."""
    lines = ["| announced as success | found | |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {claim} | {found} | {told(met)} |" for claim, found, met in claims)])


def pays(pareto: dict[str, Any], *rivals: Rival) -> list[Claim]:
    """Whether a sparse file is worth its zeros beside dense 4 bits: at most a point worse, by the interval, and 1.5
    times as fast. That which comes nearest to it is told, by the seeds that both have."""
    claims = []
    for which in rivals:
        peer = rival(pareto, which)
        best: tuple[tuple[int, int, float], str, bool | None] = ((0, 0, 0.0), f"none is that near to {peer}", False)
        for name, pairs, ratio in sparse_beside(pareto, peer):
            found = points_above(pairs)
            near = at_most_below(1, found)
            met = near if ratio >= 1.5 else False
            said = f"{name}: {points(found)} points, {seeds(len(pairs))} of both, {ratio:.2f} times as fast as {peer}"
            if near is not False:
                best = max(best, ((_MERIT[met], _MERIT[near], ratio), said, met))
        claims.append((f"a sparse model at most a point below {_RIVALS[which]} decodes 1.5 times as fast", *best[1:]))
    return claims


def paid(pareto: dict[str, Any]) -> list[str]:
    """Lines of a table of what was announced: the peers' most accurate file, and beside it their fastest and ours."""
    (claim, found, met), *others = pays(pareto, "most accurate", "fastest", "own")
    beside = [f"| beside it: {claim} | {found} |  |" for claim, found, _ in others]
    return [f"| {claim} | {found} | {told(met)} |", *beside]


def files(result: dict[str, Any]) -> str:
    """Files by encoding: the teacher's, the first seed's sparse ones, and the control's."""
    lines = ["| file | zeros | right [95%] |", "|---|--:|--:|"]
    for kind in ("quantized", "control, quantized"):
        for row in rows(result, split="test", kind=kind):
            _, low, high = right_share([row])
            name = row.get("loss", "teacher") + (", dense again" if kind != "quantized" else "")
            share = row["right"] / row["samples"]
            lines.append(f"| {name}, {row['encoding']} | {row['level']:.0%} | {share:.1%} [{low:.1%}, {high:.1%}] |")
    return "\n".join(lines)


def told(met: bool | None) -> str:
    """Of a success, in a table."""
    return {True: "met", False: "**missed**", None: "not told"}[met]


def at_most_below(points: float, found: Sequence[float]) -> bool | None:
    """Whether a model is at most so many points below another, by their difference and its interval: None where the
    difference is small enough and the interval is not."""
    mean, low, _ = found
    return True if low >= -points else None if mean >= -points else False


def plot(result: dict[str, Any], file: Path) -> None:
    """Accuracy on the test's questions of every kind of model and level: each seed with its interval."""
    figure = figures.new_figure(7.0, 4.4)
    ax = figure.subplots()
    for row in rows(result, kind="teacher", split="test"):
        figures.level(ax, 100 * row["right"] / row["samples"], "dense teacher")
    labels: list[str] = []
    for level in sorted({row["level"] for row in rows(result, kind="one-shot")}):
        for kind, loss, colour in [("one-shot", None, figures.ORANGE), *(("core", n, c) for n, c in COLOURS.items())]:
            found = rows(result, split="test", kind=kind, level=level, loss=loss)
            for i, row in enumerate(found):
                _, low, high = right_share([row])
                mean, x = 100 * row["right"] / row["samples"], len(labels) + 0.15 * (i - (len(found) - 1) / 2)
                ax.errorbar(x, mean, [[mean - 100 * low], [100 * high - mean]], fmt="o", color=colour, linewidth=1)
            if found:
                labels.append(f"{loss or kind}\n{level:.0%} zeros")
    ax.set_xticks(range(len(labels)), labels)
    ax.set(ylabel="right answers, % (a point for each seed)", ylim=(0, 100))
    figures.frame(ax)
    if ax.lines:
        ax.legend(frameon=False, loc="lower right")
    figures.save(figure, file)
