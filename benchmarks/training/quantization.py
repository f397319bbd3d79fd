"""What fewer bits cost: W8A8, W4A16, and W4A16 on top of 60% zeros, masked GPTQ against rounding.

    python -m benchmarks.training.quantization               # the recipe's teacher and sparse model, 400 questions each
    python -m benchmarks.training.quantization --plain DIR --text FILE    # perplexity of a model, dense and pruned

Exact-match accuracy and perplexity, measured by the engine. Finished stages and measurements are kept: interrupt it,
run it again. Leaves quantization.json and quantization.png in results/.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork import Model
from cutwork.measure.compare import Measurements, Variant, quality
from cutwork.recipe import QuantizeSettings, Recipe, TaskSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Source, Stages, key_of, path_of
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.perplexity import read_text

SCHEMES = ("w8a8", "w4a16")
METHODS = ("rtn", "gptq")
STYLES = {"rtn": figures.ORANGE, "gptq": figures.GREEN, None: figures.GREY}


def variants(stages: Stages, dense: Source, sparse: Source, samples: int) -> list[tuple[str, dict[str, Any], Source]]:
    """(name, what it is, model) of everything compared; adds the stages that quantise."""
    found: list[tuple[str, dict[str, Any], Source]] = []
    for zeros, model in (("dense", dense), ("sparse", sparse)):
        found.append((zeros, {"zeros": zeros, "scheme": None, "method": None}, model))
        for scheme in SCHEMES:
            for method in METHODS:
                settings = QuantizeSettings(scheme=scheme, method=method, calibration_samples=samples)
                name = f"{zeros}-{scheme}-{method}"
                about = {"zeros": zeros, "scheme": scheme, "method": method}
                found.append((name, about, stages.quantize(f"bits/{name}", model, settings)))
    return found


def with_recipe(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Accuracy and perplexity on a recipe's task, of the models it trains."""
    recipe: Recipe = load_recipe(options.recipe)
    task_settings = recipe.task.model_copy(update={"test_samples": max(options.samples, recipe.task.test_samples)})
    compare = recipe.compare.model_copy(update={"accuracy_samples": options.samples})
    recipe = recipe.model_copy(update={"task": task_settings, "compare": compare})
    task = load_task(recipe.task)
    output = options.output or recipe.output
    stages = Stages(output, task, recipe.task.max_length, console)
    dense: Source = resolve(recipe.model)
    if recipe.teacher:
        dense = stages.tune("teacher", "teacher", dense, recipe.teacher)
    pruning = recipe.prune.model_copy(update={"sparsity": options.sparsity})
    percent = round(100 * options.sparsity)
    pruned = stages.prune(f"pruned-{percent}", dense, pruning)
    sparse = stages.tune(f"squarehead-{percent}", "tune", pruned, recipe.tune, teacher=dense)
    compared = variants(stages, dense, sparse, 64)
    stages.carry_out()
    kept = Measurements(output / "measurements")
    rows = [
        {"name": name, **about, **quality(kept, name, Variant(path_of(m), key_of(m)), task, recipe, console)}
        for name, about, m in compared
    ]
    return {"recipe": recipe.name, "sparsity": options.sparsity}, rows


def without_training(options: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Perplexity of a text under a model as it is and pruned in one shot; the text's second half calibrates."""
    from cutwork.recipe import PruneSettings

    text = read_text(options.text)
    half = options.output / "halves"
    half.mkdir(parents=True, exist_ok=True)
    for name, part in (("test.txt", text[: len(text) // 2]), ("train.txt", text[len(text) // 2 :])):
        (half / name).write_text(part)
    files = {"train": str(half / "train.txt"), "test": str(half / "test.txt")}
    task = load_task(TaskSettings(name="text", train_samples=200, test_samples=1, options=files))
    stages = Stages(options.output, task, 512, console)
    dense = resolve(options.plain)
    one_shot = PruneSettings(method="sparsegpt", sparsity=options.sparsity, calibration_samples=32)
    pruned = stages.prune("pruned", dense, one_shot)
    compared = variants(stages, dense, pruned, 32)
    stages.carry_out()
    kept = Measurements(options.output / "measurements")
    rows = []
    for name, about, model in compared:

        def measure(path: Path = path_of(model)) -> dict[str, Any]:
            with Model.load(path) as engine:
                tokens = engine.encode((half / "test.txt").read_text())[: options.tokens]
                return {"perplexity": engine.perplexity(tokens, window=512, stride=512).perplexity}

        measured = kept.get([key_of(model), "text", options.tokens], measure)
        rows.append({"name": name, **about, **measured})
        console.print(rows[-1])
    about = {"model": str(options.plain.name), "text": options.text.name, "tokens": options.tokens}
    return {**about, "sparsity": options.sparsity}, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--plain", type=Path, help="a model directory, to quantise as it is")
    parser.add_argument("--text", type=Path, help="the text of its perplexity")
    parser.add_argument("--tokens", type=int, default=16384, help="of the text")
    parser.add_argument("--sparsity", type=float, default=0.6)
    parser.add_argument("--samples", type=int, default=400, help="held-out questions")
    parser.add_argument("--output", type=Path, help="default: the recipe's, where its teacher may be already")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.plain and not (options.text and options.output):
        parser.error("--plain needs --text and --output")
    console = Console(stderr=True)
    about, rows = (without_training if options.plain else with_recipe)(options, console)
    options.results.mkdir(parents=True, exist_ok=True)
    name = "quantization_perplexity" if options.plain else "quantization"
    result = save(options.results / f"{name}.json", {**about, "rows": rows})
    plot(rows, options.results / f"{name}.png")
    print(table(result))


def table(*results: dict[str, Any]) -> str:
    """One line for each measure and kind of zeros, one column for each encoding."""
    columns = [(None, None), *((scheme, method) for scheme in SCHEMES for method in METHODS)]
    heads = ["floats", *(f"{scheme.upper()} {method.upper()}" for scheme, method in columns[1:])]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for result in results:
        rows = {(row["zeros"], row["scheme"], row["method"]): row for row in result["rows"]}
        measure, form = ("accuracy", ".1%") if "accuracy" in result["rows"][0] else ("perplexity", ".1f")
        for zeros, label in (("dense", "dense"), ("sparse", f"{result['sparsity']:.0%} zeros")):
            cells = [f"{rows[zeros, *column][measure]:{form}}" for column in columns]
            lines.append(f"| {measure}, {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    measure = "accuracy" if "accuracy" in rows[0] else "perplexity"
    figure = figures.new_figure(7.5, 4.2)
    ax = figure.subplots()
    factor = 100 if measure == "accuracy" else 1
    ax.bar(
        [row["name"] for row in rows],
        [factor * row[measure] for row in rows],
        color=[STYLES[row["method"]] for row in rows],
    )
    ax.set_ylabel("accuracy, %" if measure == "accuracy" else "perplexity")
    ax.tick_params(axis="x", rotation=60)
    figures.frame(ax, grid=False)
    figures.save(figure, file)


if __name__ == "__main__":
    main()
