"""What each loss brings back after pruning: CE, CE+KL and SquareHead on the same tokens, sparsities and seeds.

    python -m benchmarks.training.distillation    # hours on two cores; interrupt it, run it again

From one dense teacher, pruned in one shot, then fine-tuned. Shares its stages with accuracy.py, so that what is there
already is not made again. Leaves distillation.json (with all curves) and distillation.png in results/; cells that the
file has already, of other seeds say, stay in it where recipe, task, settings and questions are the same.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, refuse_mixture, save
from benchmarks.training.accuracy import LOSSES as BASE
from benchmarks.training.accuracy import with_samples
from cutwork.measure.compare import Measurements, Variant, quality
from cutwork.recipe import Losses, Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Source, Stage, Stages
from cutwork.store.json_file import read_json
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task

LOSSES: dict[str, dict[str, Any]] = {
    "CE": {"losses": BASE["CE"]},
    "CE+KL": {"losses": Losses(ce=1.0, kl=1.0)},
    "SquareHead": {"losses": BASE["SquareHead"]},
}
COLOURS = {name: figures.STYLES[name][0] for name in LOSSES}


def models(
    recipe: Recipe, stages: Stages, sparsities: list[float], seeds: list[int], names: list[str]
) -> list[tuple[str, float, int, Stage]]:
    """(loss, sparsity, seed, model) of every cell; adds the stages that make them."""
    dense: Source = resolve(recipe.model)
    if recipe.teacher:
        dense = stages.tune("teacher", "teacher", dense, recipe.teacher)
    cells = []
    for seed in seeds:
        for sparsity in sparsities:
            percent = round(100 * sparsity)
            pruned = stages.prune(f"pruned-{percent}", dense, recipe.prune.model_copy(update={"sparsity": sparsity}))
            for name in names:
                settings = recipe.tune.model_copy(update={**LOSSES[name], "seed": seed})
                suffix = "" if seed == recipe.tune.seed else f"-seed{seed}"
                stage = f"{name.lower().replace('+', '-')}-{percent}{suffix}"
                cells.append((name, sparsity, seed, stages.tune(stage, "tune", pruned, settings, teacher=dense)))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--max-steps", type=int, help="optimiser steps per cell, instead of the recipe's epochs")
    parser.add_argument("--losses", nargs="+", default=["CE", "CE+KL", "SquareHead"], choices=list(LOSSES))
    parser.add_argument("--finished", action="store_true", help="train nothing; report the cells that are there")
    parser.add_argument("--samples", type=int, default=400, help="held-out questions")
    parser.add_argument("--output", type=Path, help="default: the recipe's, where its teacher may be already")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    console = Console(stderr=True)
    recipe = with_samples(load_recipe(options.recipe), options.samples)
    if options.max_steps:
        recipe = recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"max_steps": options.max_steps})})
    task = load_task(recipe.task)
    output = options.output or recipe.output
    stages = Stages(output, task, recipe.task.max_length, console)
    cells = models(recipe, stages, options.sparsity, options.seed, options.losses)
    if options.finished:
        missing = stages.missing()
        cells = [cell for cell in cells if cell[-1] not in missing]
    else:
        stages.carry_out()

    options.results.mkdir(parents=True, exist_ok=True)
    kept = Measurements(output / "measurements")
    described = {
        "recipe": recipe.name,
        "task": recipe.task.model_dump(mode="json"),
        "tune": recipe.tune.model_dump(mode="json", exclude={"losses", "seed"}),
        "questions": options.samples,
    }
    rows = earlier_rows(options.results / "distillation.json", described, {cell[:3] for cell in cells})
    for loss, sparsity, seed, stage in cells:
        name = f"{loss} {sparsity:.0%} seed {seed}"
        measured = quality(kept, name, Variant(stage.output, stage.key), task, recipe, console)
        log = [json.loads(line) for line in (stage.output / "tune-log.jsonl").read_text().splitlines()]
        report = read_json(stage.output / "tune-report.json")
        about = {"loss": loss, "target_sparsity": sparsity, "seed": seed, "steps": report["steps"]}
        curve = {key: [line[key] for line in log if key in line] for key in ("ce", "kl", "squarehead", "grad_norm")}
        rows.append({**about, **measured, "curve": {key: values for key, values in curve.items() if values}})
        rows.sort(key=lambda row: (row["seed"], row["target_sparsity"], list(LOSSES).index(row["loss"])))
        # After every cell, so that an interrupted run leaves what it has.
        result = save(options.results / "distillation.json", {**described, "rows": rows}, compact=True)
    plot(rows, options.results / "distillation.png")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """Accuracy seed by seed and the mean perplexity, by level and loss."""
    heads = [*(f"{loss}, accuracy" for loss in LOSSES), *(f"{loss}, perplexity" for loss in LOSSES)]
    lines = ["| zeros | " + " | ".join(heads) + " |", "|--:|" + "--:|" * len(heads)]
    for sparsity in sorted({row["target_sparsity"] for row in result["rows"]}):
        cells = {
            loss: [row for row in result["rows"] if (row["loss"], row["target_sparsity"]) == (loss, sparsity)]
            for loss in LOSSES
        }
        accuracies = [" / ".join(f"{row['accuracy']:.1%}" for row in rows) for rows in cells.values()]
        perplexities = [f"{mean(row['perplexity'] for row in rows):.2f}" if rows else "" for rows in cells.values()]
        lines.append(f"| {sparsity:.0%} | " + " | ".join([*accuracies, *perplexities]) + " |")
    return "\n".join(lines)


def earlier_rows(file: Path, described: dict[str, Any], cells: set[tuple[str, float, int]]) -> list[dict[str, Any]]:
    """The rows of a results file that came about in the same way and are not among `cells` (loss, sparsity, seed).

    Raises SystemExit if they are of another processor or build.
    """
    earlier = json.loads(file.read_text()) if file.exists() else {"rows": []}
    if {key: value for key, value in earlier.items() if key not in ("rows", "provenance")} != described:
        return []
    refuse_mixture(file, earlier["provenance"])
    return [row for row in earlier["rows"] if (row["loss"], row["target_sparsity"], row["seed"]) not in cells]


def smoothed(values: list[float]) -> list[float]:
    """A running mean that forgets, without a bias towards the start."""
    total = norm = 0.0
    result = []
    for value in values:
        total, norm = 0.9 * total + value, 0.9 * norm + 1
        result.append(total / norm)
    return result


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    sparsities = sorted({row["target_sparsity"] for row in rows})
    figure = figures.new_figure(3.2 * (len(sparsities) + 1), 3.4)
    axes = figure.subplots(1, len(sparsities) + 1)
    for ax, sparsity in zip(axes, sparsities, strict=False):
        for row in rows:
            if row["target_sparsity"] == sparsity:
                label = row["loss"] if row["seed"] == rows[0]["seed"] else None
                ax.plot(smoothed(row["curve"]["ce"]), color=COLOURS[row["loss"]], linewidth=1.1, label=label)
        ax.set(title=f"{sparsity:.0%} zeros", xlabel="optimiser step", yscale="log")
    axes[0].set_ylabel("cross entropy on training answers")
    for loss, colour in COLOURS.items():
        found = [(100 * row["target_sparsity"], 100 * row["accuracy"]) for row in rows if row["loss"] == loss]
        if not found:
            continue
        means = [(x, mean(y for other, y in found if other == x)) for x in sorted({x for x, _ in found})]
        axes[-1].plot(*zip(*means, strict=True), color=colour)
        axes[-1].plot(*zip(*found, strict=True), "o", color=colour, markersize=4, label=loss)
    axes[-1].set(title="held-out accuracy, %", xlabel="zeros, %", ylim=(0, None))
    for ax in axes:
        figures.frame(ax)
    axes[0].legend(frameon=False)
    figures.save(figure, file)


if __name__ == "__main__":
    main()
