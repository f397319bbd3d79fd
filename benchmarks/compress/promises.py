"""Does `cutwork compress --within` keep its word on questions that nobody looked at?

    python -m benchmarks.compress.promises --recipe my.yaml          # hours: trains every attempt; may be interrupted

For each budget of points and each seed the whole command, from the recipe's model; then the loss on the untouched test
set. A promise is kept where the 95% interval of that reaches down to the budget: what was chosen on validation may lose
more by chance, not by more than chance. Leaves NAME.json in results/, and what is made in `--work`.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.compress.compress import Goal, compress
from cutwork.errors import CutworkError
from cutwork.recipe import Recipe
from cutwork.recipe_file import load_recipe


def seeded(recipe: Recipe, seed: int, output: Path) -> Recipe:
    """The recipe with another seed in all that draws."""
    changes: dict[str, Any] = {"output": output}
    for section in ("task", "prune", "tune"):
        changes[section] = getattr(recipe, section).model_copy(update={"seed": seed})
    return recipe.model_copy(update=changes)


def keep(recipe: Recipe, budget: float, attempts: int, console: Console) -> dict[str, Any]:
    """What one promise came to; why not, where the command says that it cannot."""
    try:
        report = compress(recipe, Goal(within=budget), attempts=attempts, console=console)
    except CutworkError as error:
        return {"refused": str(error)}
    told = {key: report[key] for key in ("validation", "test")}
    speedups = {"predicted": report["choice"]["speedup"], "measured": report["measured"]["speedup"]}
    return {**told, "speedup": speedups, "kept": report["test"]["low"] <= budget, "tried": report["tried"]}


def table(result: dict[str, Any]) -> str:
    """By budget and seed."""
    lines = [
        "| within | seed | speed-up predicted | measured | zeros | trained | lost on validation | on the test | kept |",
        "|--:|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for row in result["rows"]:
        start = f"| {row['within']:g} | {row['seed']} | "
        if "refused" in row:
            lines.append(f"{start}– | – | – | – | – | – | cannot |")
            continue
        speed = row["speedup"]
        same = [each for each in row["tried"] if each["speedup"] == speed["predicted"]]
        chosen = next(each for each in same if each["loss"] == row["validation"])  # one shot goes first
        how = f"{speed['predicted']:.2f}× | {speed['measured']:.2f}× | {chosen['zeros']:.0%}"
        trained = "yes" if chosen["trained"] else "in one shot"
        lost = [f"{row[k]['points']:.1f} ({row[k]['low']:.1f} to {row[k]['high']:.1f})" for k in ("validation", "test")]
        kept = "yes" if row["kept"] else "no"
        lines.append(f"{start}{how} | {trained} | {lost[0]} | {lost[1]} | {kept} |")
    return "\n".join(lines)


def main() -> None:
    """Promise, keep and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml", help="task, training and model")
    parser.add_argument("--model", help="another model than the recipe's, its own teacher")
    parser.add_argument("--within", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--validation", type=int, default=200, help="samples, if the recipe holds none out")
    parser.add_argument("--attempts", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("out/promises"))
    parser.add_argument("--name", default="promises", help="of the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    recipe, console = load_recipe(options.recipe), Console(stderr=True)
    held_out = recipe.task.validation_samples or options.validation
    changes: dict[str, Any] = {"task": recipe.task.model_copy(update={"validation_samples": held_out})}
    if options.model:
        changes |= {"model": options.model, "teacher": None}
    recipe = recipe.model_copy(update=changes)
    rows = []
    for seed in options.seeds:
        for budget in options.within:  # in one directory: what one budget tried is there for the next
            base = seeded(recipe, seed, options.work / f"seed-{seed}")
            rows.append({"within": budget, "seed": seed, **keep(base, budget, options.attempts, console)})
            about = {"model": recipe.model, "task": recipe.task.name, "rows": rows}
            result = save(options.results / f"{options.name}.json", about)
    print(table(result))


if __name__ == "__main__":
    main()
