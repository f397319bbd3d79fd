"""What `cutwork compress` chooses against the same for every linear: predicted and measured, before and after training.

    python -m benchmarks.compress.choices --one-shot                 # SmolLM2-135M: predicted against measured KL
    python -m benchmarks.compress.choices --recipe my.yaml           # trains every choice: hours; may be interrupted
    python -m benchmarks.compress.choices --speed                    # on a quiet machine: predicted against measured ms

Choices are those of the frontiers (zeros and bits, bits alone, zeros alone) and uniform ones: every linear the same
candidate, OWL's rates, int8, int4. Each is made as its recipe says, with the same training, unless `--one-shot`; then
asked: KL divergence of the next token from the dense model's, in the answers of test samples and everywhere in them,
both in the engine, points lost on validation, and on the whole test set unless `--one-shot` without `--test`. Leaves
choices.json and choices.png (or by another `--name`) in results/, and what is made in `--work`.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, save
from benchmarks.compress.advantage import (
    advantage,
    advantage_predicted,
    advantage_table,
    best_alike,
    label,
    with_intervals,
)
from benchmarks.compress.divergence import divergence
from benchmarks.compress.frontier import frontier_table
from benchmarks.compress.promises import seeded
from cutwork.compress.frontier import ALLOWED, by_kind, frontiers
from cutwork.compress.menu import Choice
from cutwork.compress.promise import loss
from cutwork.compress.recipe_of import recipe_of
from cutwork.compress.workshop import Workshop
from cutwork.engine.model import Model
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Stage, sample_digest
from cutwork.tasks.load import load_task

UNIFORM = ("dense w8a8", "dense w4a16", "50 w8a8", "70 w8a8", "60 w4a16", "4:16 w4a16", "8:16 w4a16", "60 bf16")
HEAD_INT8 = "dense w8a8"  # where nothing else is said
COLOURS = dict(
    zip(
        (*ALLOWED, "uniform", "OWL"),
        (figures.GREEN, figures.BLUE, figures.ORANGE, figures.GREY, figures.RED),
        strict=True,
    )
)


@dataclass(frozen=True)
class Entry:
    """A choice, where it comes from, and the recipe that makes it."""

    kind: str
    name: str
    choice: Choice
    recipe: Recipe

    @property
    def folder(self) -> str:
        """Where it is made."""
        return f"{self.kind}/{self.name}".replace(",", "").replace(" ", "-").replace(":", "-")


def entries(shop: Workshop, points: int, uniform: Sequence[str] = UNIFORM, also: Sequence[int] = ()) -> list[Entry]:
    """So many of each frontier, spread over its speeds, and the uniform ones.

    uniform: candidates, with int8 in the head or with what they say: "4:16 w4a16, head dense w4a16". also: further
    places on the frontier of zeros and bits, which has 16.
    """
    found = []
    for kind, choices in frontiers(shop.menu).items():
        places = sorted({round(x) for x in np.linspace(1, len(choices) - 1, points)})
        if kind == next(iter(ALLOWED)):
            places = sorted({*places, *(place for place in also if place < len(choices))})
        found += [_entry(shop, kind, f"{choices[i].speedup:.2f}x", choices[i]) for i in places]
    for name in uniform:
        candidate, _, head = name.partition(", head ")
        found.append(_entry(shop, "uniform", name, shop.menu.uniform(candidate, head or HEAD_INT8)))
    for candidate in ("50 w8a8", "70 w8a8"):
        even = _entry(shop, "OWL", candidate, shop.menu.uniform(candidate, HEAD_INT8))
        prune = {"modules": {}, "patterns": {}, "rates": "owl", "sparsity": float(candidate[:2]) / 100}
        recipe = even.recipe.model_copy(update={"prune": even.recipe.prune.model_copy(update=prune)})
        found.append(Entry("OWL", candidate, even.choice, recipe))
    return found


def _entry(shop: Workshop, kind: str, name: str, choice: Choice) -> Entry:
    return Entry(kind, name, choice, recipe_of(shop.base, choice))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's; equal values share their ranks."""
    ranks = [np.unique(values, return_inverse=True, return_counts=True)[1:] for values in (x, y)]
    middles = [(np.cumsum(counts) - counts / 2)[inverse] for inverse, counts in ranks]
    return float(np.corrcoef(np.stack(middles))[0, 1])


def measure(shop: Workshop, entry: Entry, options: argparse.Namespace) -> tuple[dict[str, Any], Stage]:
    """What was predicted and measured of an entry but its speed, and its packed model."""
    recipe = entry.recipe.model_copy(update={"tune": None}) if options.one_shot else entry.recipe
    packed = shop.make(recipe, entry.folder)
    shop.drop(entry.folder, pruned=True)
    samples = shop.task.test[options.after : options.after + options.samples]

    def kl() -> dict[str, Any]:
        loading = {"threads": options.threads, "max_context": 1024}
        with Model.load(shop.dense.output, **loading) as dense, Model.load(packed.output, **loading) as model:
            found = divergence(dense, model, samples)
            sums, tokens = found.in_answers.tolist(), found.answers.tolist()
            of_all = {"kl": found.kl, "kl_everywhere": found.kl_everywhere, "nbytes": model.memory_bytes["weights"]}
            return of_all | {"kl_sums": [float(f"{each:.4g}") for each in sums], "kl_tokens": tokens}

    found = shop.kept.get([packed.key, shop.dense.key, sample_digest(samples), "kl by sample"], kl)
    row: dict[str, Any] = {
        "kind": entry.kind,
        "name": entry.name,
        "predicted": {key: getattr(entry.choice, key) for key in ("speedup", "milliseconds", "nbytes", "kl", "zeros")},
        **found,
        "lost_on_validation": shop.loss(packed, shop.task.validation).__dict__,
    }
    if options.test or not options.one_shot:
        before, after = (shop.scores(stage, shop.task.test) for stage in (shop.dense, packed))
        row["lost"] = loss(before, after).__dict__
    return row, packed


def speed(shop: Workshop, entry: Entry, packed: Stage) -> dict[str, Any]:
    """How fast an entry was when random numbers were timed, and how fast its packed model is."""
    timed, measured = shop.timed(entry.choice), shop.speeds(packed)
    told = {"speedup": timed.speedup, "milliseconds": timed.milliseconds}
    return {"timed": told, "milliseconds": measured["milliseconds"], "speedup": measured["speedup"]}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How well predictions rank what was measured, and how far milliseconds are off."""
    lost = [row["lost_on_validation"]["points"] for row in rows]
    kls_off = [abs(row["kl"] / row["predicted"]["kl"] - 1) for row in rows]
    found = {
        "kl_rank_correlation": rank_correlation([r["predicted"]["kl"] for r in rows], [r["kl"] for r in rows]),
        "kl_off_median": float(np.median(kls_off)),
        "kl_off_most": max(kls_off),
        "points_rank_correlation": rank_correlation([r["kl"] for r in rows], lost),
        "points_rank_correlation_everywhere": rank_correlation([r["kl_everywhere"] for r in rows], lost),
    }
    even = [row for row in rows if row["kind"] != "OWL"]
    if all("speedup" in row for row in even):
        for how, which in (("", "predicted"), ("timed_", "timed")):
            for name in ("milliseconds", "speedup"):
                off = [abs(row[name] / row[which][name] - 1) for row in even]
                found[f"{how}{name}_off_median"], found[f"{how}{name}_off_most"] = float(np.median(off)), max(off)
    return found


def as_json(found: Mapping[str, Sequence[Choice]]) -> dict[str, Any]:
    """The points of the frontiers, without the choice of every linear."""
    keys = ("speedup", "kl", "zeros")
    points = {
        name: [{**{key: getattr(choice, key) for key in keys}, "by_kind": by_kind(choice)} for choice in choices]
        for name, choices in found.items()
    }
    return {"frontiers": points}


def table(result: dict[str, Any]) -> str:
    """By choice; milliseconds and speed-ups as predicted, as timed with random numbers, and as measured."""
    lines = [
        "| choice | zeros | speed-up | ms | KL predicted | KL measured | everywhere | points lost, validation | test |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        told, points = row["predicted"], [_points(row.get(key)) for key in ("lost_on_validation", "lost")]
        told_of = [each for each in (told, row.get("timed"), row) if each and "speedup" in each]
        ms = " / ".join(f"{each['milliseconds']:.2f}" for each in told_of)
        speedup = " / ".join(f"{each['speedup']:.2f}×" for each in told_of)
        lines.append(
            f"| {row['kind']}, {row['name']} | {told['zeros']:.0%} | {speedup} | {ms} "
            f"| {told['kl']:.3g} | {_kl(row)} | {row['kl_everywhere']:.3g} | {' | '.join(points)} |"
        )
    return "\n".join(lines)


def _kl(row: Mapping[str, Any]) -> str:
    return f"{row['kl']:.3g}" + (" ({:.2g} to {:.2g})".format(*row["kl_interval"]) if "kl_interval" in row else "")


def _points(lost: dict[str, float] | None) -> str:
    return f"{lost['points']:.1f} ({lost['low']:.1f} to {lost['high']:.1f})" if lost else "–"


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success, what was found, and whether that is it."""
    lines = ["| announced as success | found | |", "|---|---|---|"]

    def line(wanted: str, found: str, met: bool) -> None:
        lines.append(f"| {wanted} | {found} | {'met' if met else '**missed**'} |")

    correlation, count = result["kl_rank_correlation"], len(result["rows"])
    wanted = "KL predicted before training and measured: rank correlation of at least 0.9"
    line(wanted, f"{correlation:.2f}, {count} choices", correlation >= 0.9)
    if "kl_off_most" in result:
        middle, most = result["kl_off_median"], result["kl_off_most"]
        line(
            "half of the KLs within a quarter of those predicted",
            f"median {middle:.0%}, at most {most:.0%}",
            middle <= 0.25,
        )
    told, everywhere = (result[f"points_rank_correlation{where}"] for where in ("", "_everywhere"))
    wanted = "KL in answers ranks points lost better than KL everywhere"
    line(wanted, f"rank correlations {told:.2f} and {everywhere:.2f}", told > everywhere)
    for name, wanted in (
        ("milliseconds", "milliseconds within 5% of those predicted"),
        ("speedup", "speed-ups over the dense model within 5% of those predicted"),
        ("timed_milliseconds", "half of the milliseconds within 5% of those timed before anything was made"),
        ("timed_speedup", "half of the speed-ups within 5% of those timed before"),
    ):
        if f"{name}_off_most" in result:
            middle, most = result[f"{name}_off_median"], result[f"{name}_off_most"]
            kept = (middle if name.startswith("timed") else most) <= 0.05
            line(wanted, f"median {middle:.0%}, at most {most:.0%}", kept)
    best = best_alike(result["rows"])
    times = {name: x for name, x in advantage(result["rows"]).items() if name in best}
    if times:
        least = min(times.values())
        found = f"{least:.2f} to {max(times.values()):.2f} times, {len(times)} choices, uniform or OWL's"
        line("at equal KL 1.15 times as fast as the best uniform choices", found, least >= 1.15)
        foretold = [row["predicted"].get("advantage") for row in result["rows"] if label(row) in best]
        if some := [each for each in foretold if each]:
            lines.append(f"| – | by the predictions alone {min(some):.2f} to {max(some):.2f} times | |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Measured KL against speed-up, measured where it was, and against predicted KL; points lost against both KLs."""
    figure = figures.new_figure(14, 4.6)
    left, middle, right = figure.subplots(1, 3)
    for kind, colour in COLOURS.items():
        own = sorted((row for row in rows if row["kind"] == kind), key=_speedup)
        if not own:
            continue
        kl, points = [row["kl"] for row in own], [row["lost_on_validation"]["points"] for row in own]
        style = "none" if kind in ("uniform", "OWL") else "-"
        left.plot([_speedup(row) for row in own], kl, linestyle=style, marker="o", color=colour, label=kind)
        middle.plot([row["predicted"]["kl"] for row in own], kl, "o", color=colour)
        right.plot(kl, points, "o", color=colour)
        right.plot([row["kl_everywhere"] for row in own], points, "o", color=colour, fillstyle="none")
    left.set(xlabel="speed-up over bfloat16", ylabel="KL in answers, nats per token", yscale="log")
    middle.set(xlabel="KL predicted before training", ylabel="KL in answers", xscale="log", yscale="log")
    right.set(xlabel="KL in answers (filled), everywhere (hollow)", ylabel="points lost on validation", xscale="log")
    for ax in (left, middle, right):
        figures.frame(ax)
    left.legend(frameon=False)
    figures.save(figure, file)


def _speedup(row: dict[str, Any]) -> float:
    return float(row.get("speedup") or row["predicted"]["speedup"])


def main() -> None:
    """Make, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml", help="task, training and model")
    parser.add_argument("--model", help="another model than the recipe's, its own teacher")
    parser.add_argument("--one-shot", action="store_true", help="no training: is the order of errors right?")
    parser.add_argument("--test", action="store_true", help="ask the whole test set although nothing is trained")
    parser.add_argument("--speed", action="store_true", help="measure milliseconds; on a quiet machine")
    parser.add_argument("--purpose", default="decode", choices=["decode", "prefill", "batch16"])
    parser.add_argument("--metric", default="answers", choices=["answers", "tokens"], help="what points are of")
    parser.add_argument("--points", type=int, default=4, help="of each frontier")
    parser.add_argument("--also", type=int, nargs="+", default=[], help="more places on the frontier of zeros and bits")
    parser.add_argument("--kinds", nargs="+", default=list(COLOURS), choices=list(COLOURS))
    parser.add_argument(
        "--uniform", nargs="+", default=UNIFORM, help="every linear's candidate, or both: '50 w8a8, head dense w4a16'"
    )
    parser.add_argument("--most", type=int, help="stop after so many choices that were not there before")
    parser.add_argument("--seed", type=int, help="of all that draws, as promises have it, instead of the recipe's")
    parser.add_argument("--samples", type=int, default=32, help="test samples of which KL is measured")
    parser.add_argument("--after", type=int, default=0, help="so many test samples, which had been looked at before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="choices", help="of the results")
    parser.add_argument("--work", type=Path, default=Path("out/choices"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    recipe = load_recipe(options.recipe)
    if options.seed is not None:
        recipe = seeded(recipe, options.seed, options.work)
    changes: dict[str, Any] = {
        "output": options.work,
        "compare": recipe.compare.model_copy(update={"threads": options.threads}),
    }
    if options.model:
        changes |= {"model": options.model, "teacher": None}
    base = recipe.model_copy(update=changes)
    shop = Workshop(base, load_task(base.task), options.purpose, options.metric, Console(stderr=True))
    rows, new = list[dict[str, Any]](), 0
    for entry in entries(shop, options.points, options.uniform, options.also):
        fresh = not (options.work / entry.folder / ("one-shot/packed" if options.one_shot else "packed")).exists()
        if entry.kind not in options.kinds or (fresh and new == options.most):
            continue
        new += fresh
        row, packed = measure(shop, entry, options)
        if options.speed:
            row |= speed(shop, entry, packed)
        if entry.kind not in (*ALLOWED, "OWL"):
            row["predicted"]["advantage"] = advantage_predicted(shop.menu, entry.choice)
        rows.append(row)
        shop.console.print(
            f"{entry.kind}, {entry.name}: KL {rows[-1]['predicted']['kl']:.4g} → {rows[-1]['kl']:.4g}", highlight=False
        )
    tokens = [row.pop("kl_tokens") for row in rows].pop()
    with_intervals(rows, tokens)
    about = {
        "model": base.model,
        "task": shop.task.name,
        "purpose": options.purpose,
        "metric": options.metric,
        "trained": not options.one_shot,
        "kl_tokens": tokens,
    }
    found = {**about, **summary(rows), "rows": rows, **as_json(frontiers(shop.menu))}
    result = save(options.results / f"{options.name}.json", found, threads=options.threads)
    print(table(result), advantage_table(result), frontier_table(result), summary(rows), sep="\n\n")
    plot(rows, options.results / f"{options.name}.png")


if __name__ == "__main__":
    main()
