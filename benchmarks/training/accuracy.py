"""What pruning costs and what sparse fine-tuning brings back, on the task of a recipe.

    python -m benchmarks.training.accuracy               # about an hour on two cores; interrupt it, run it again

From one dense teacher: pruned in one shot, then fine-tuned with cross-entropy alone and with SquareHead, each on the
same tokens, and the SquareHead model in W8A8, at every sparsity asked for; beside them the teacher, fine-tuned again
on those tokens. Exact-match accuracy and perplexity on held-out questions, measured by the engine. Leaves accuracy.json
and accuracy.png in results/.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.measure.compare import Measurements, Variant, quality
from cutwork.recipe import Losses, Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Source, Stages, key_of, path_of
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task

LOSSES = {"CE": Losses(ce=1.0), "SquareHead": Losses(ce=1.0, squarehead=1.0)}


def models(recipe: Recipe, stages: Stages, sparsities: list[float]) -> list[tuple[str, float, Source]]:
    """(method, sparsity, model) of everything compared; adds the stages that make them."""
    assert recipe.quantize
    dense: Source = resolve(recipe.model)
    if recipe.teacher:
        dense = stages.tune("teacher", "teacher", dense, recipe.teacher)
    again = recipe.tune.model_copy(update={"losses": LOSSES["CE"]})
    compared: list[tuple[str, float, Source]] = [
        ("dense", 0.0, dense),
        # The sparse models see the data a second time; this one says how much of their gain is due to that alone.
        ("dense, tuned again", 0.0, stages.tune("dense-again", "tune", dense, again)),
        ("dense W8A8", 0.0, stages.quantize("dense-w8a8", dense, recipe.quantize)),
    ]
    for sparsity in sparsities:
        percent = round(100 * sparsity)
        pruned = stages.prune(f"pruned-{percent}", dense, recipe.prune.model_copy(update={"sparsity": sparsity}))
        compared.append(("one-shot", sparsity, pruned))
        for name, losses in LOSSES.items():
            settings = recipe.tune.model_copy(update={"losses": losses})
            tuned = stages.tune(f"{name.lower()}-{percent}", "tune", pruned, settings, teacher=dense)
            compared.append((name, sparsity, tuned))
        compared.append(("SquareHead W8A8", sparsity, stages.quantize(f"w8a8-{percent}", tuned, recipe.quantize)))
    return compared


def with_samples(recipe: Recipe, count: int) -> Recipe:
    """A recipe that measures accuracy on `count` held-out questions."""
    return recipe.model_copy(
        update={
            "task": recipe.task.model_copy(update={"test_samples": max(count, recipe.task.test_samples)}),
            "compare": recipe.compare.model_copy(update={"accuracy_samples": count}),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--samples", type=int, default=400, help="held-out questions")
    parser.add_argument("--output", type=Path, help="default: the recipe's, where its teacher may be already")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where accuracy.json and accuracy.png go")
    options = parser.parse_args()

    console = Console(stderr=True)
    recipe = with_samples(load_recipe(options.recipe), options.samples)
    task = load_task(recipe.task)
    output = options.output or recipe.output
    stages = Stages(output, task, recipe.task.max_length, console)
    compared = models(recipe, stages, options.sparsity)
    options.results.mkdir(parents=True, exist_ok=True)
    stages.carry_out()

    kept = Measurements(output / "measurements")
    rows = []
    for method, sparsity, model in compared:
        name = f"{method} {sparsity:.0%}" if sparsity else method
        measured = quality(kept, name, Variant(path_of(model), key_of(model)), task, recipe, console)
        rows.append({"method": method, "target_sparsity": sparsity, **measured})
    about = {"recipe": recipe.name, "task": recipe.task.model_dump(mode="json"), "tune": recipe.tune.model_dump()}
    result = save(options.results / "accuracy.json", {**about, "rows": rows})
    plot(rows, options.results / "accuracy.png")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """Accuracy and perplexity of every model."""
    lines = ["| model | zeros | accuracy | right, of | perplexity |", "|---|--:|--:|--:|--:|"]
    for row in result["rows"]:
        counted = f"{row['right']}, {row['samples']}"
        lines.append(
            f"| {row['method']} | {row['sparsity']:.0%} | {row['accuracy']:.1%} | {counted} | {row['perplexity']:.2f} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    figure = figures.new_figure(7.5, 4.8)
    ax = figure.subplots()
    dense = next(row for row in rows if row["method"] == "dense")
    again = next(row for row in rows if row["method"] == "dense, tuned again")
    figures.level(ax, 100 * dense["accuracy"], "dense")
    figures.level(ax, 100 * again["accuracy"], "dense, tuned again", ":")
    for method, (colour, marker, dashes) in figures.STYLES.items():
        line = sorted((100 * row["sparsity"], 100 * row["accuracy"]) for row in rows if row["method"] == method)
        if not line:
            continue
        ax.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=dashes, label=method)
    ax.set_xlabel("zeros in the linears of the blocks, %")
    ax.set_ylabel(f"accuracy, % of {dense['samples']} held-out questions")
    ax.set_ylim(bottom=0)
    figures.frame(ax)
    ax.legend(frameon=False, loc="lower left")
    figures.save(figure, file)


if __name__ == "__main__":
    main()
