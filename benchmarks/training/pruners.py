"""One-shot pruning methods side by side: perplexity, accuracy, time and peak memory at several sparsities.

    python -m benchmarks.training.pruners                      # SmolLM2-135M, hours on two cores; may be interrupted
    python -m benchmarks.training.pruners --dense out/smollm2-gsm/teacher --methods sparsegpt alps --sparsity 0.7

The dense model is the teacher of a recipe, or `--dense`. Every cell is one `cutwork prune` in a process of its own, so
that its peak memory is its own; the model is then measured by the engine on the recipe's task and thrown away. Finished
cells are kept in `--work`. Leaves pruners.json and pruners.png in results/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork import _native
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.measure.quality import accuracy
from cutwork.recipe import Pruner, Recipe, TaskSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Stages, key_of, path_of
from cutwork.store.atomic import write_atomically
from cutwork.store.json_file import read_json
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.perplexity import read_text, task_text
from cutwork.tasks.task import Sample, Task

METHODS = {name: ["--method", name] for name in get_args(Pruner)} | {
    f"{name}+owl": ["--method", name, "--rates", "owl"] for name in ("sparsegpt", "alps")
}
COLOURS = {
    "magnitude": figures.GREY,
    "wanda": figures.PURPLE,
    "sparsegpt": figures.BLUE,
    "rose": figures.CYAN,
    "alps": figures.GREEN,
    "sparsegpt+owl": figures.ORANGE,
    "alps+owl": figures.RED,
}
_COMMAND = [sys.executable, "-c", "from cutwork.cli import main; main()", "prune"]


def prune(dense: Path, output: Path, options: list[str]) -> dict[str, Any]:
    """Prune in a process of its own; its report's totals, and the most memory it had at once."""
    shutil.rmtree(output, ignore_errors=True)
    command = [*_COMMAND, str(dense), str(output), *options]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    report = read_json(output / "prune-report.json")
    layers = report["layers"]
    errors = [layer["output_error"] for layer in layers if "output_error" in layer]
    return {
        "zeros": report["sparsity"],
        "seconds": report["seconds"],
        "threads": _native.default_threads(),
        "peak_bytes": usage.ru_maxrss * 1024,  # mapped files included
        "output_error": sum(errors) / len(errors) if errors else None,
        "damped_again": sum(layer.get("attempts", 1) > 1 for layer in layers),
    }


def measure(path: Path, task: Task, recipe: Recipe, samples: int, texts: dict[str, str]) -> dict[str, Any]:
    """Accuracy on the task (unless `samples` is 0) and perplexity of each text."""
    settings = recipe.compare
    with Model.load(path, threads=settings.threads, max_context=1024) as model:
        texts = texts or {task.name: task_text(model.tokenizer, task.test)}
        result: dict[str, Any] = {
            f"perplexity_{name}": model.perplexity(text, window=512, max_tokens=settings.perplexity_tokens).perplexity
            for name, text in texts.items()
        }
        if samples:
            score = accuracy(
                model, task, max_new_tokens=settings.max_new_tokens, samples=samples, console=Console(stderr=True)
            )
            result |= {"accuracy": score.accuracy, "samples": score.samples}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "smollm2-gsm.yaml")
    parser.add_argument("--dense", type=Path, help="default: the recipe's teacher, made if it is not there")
    parser.add_argument("--task", help="another task than the recipe's: a name or a JSONL file")
    parser.add_argument("--text", type=Path, nargs="*", default=[], help="files whose perplexity is measured")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8])
    parser.add_argument("--samples", type=int, default=400, help="held-out questions; 0: perplexity only")
    parser.add_argument("--calibration-samples", type=int, default=128)
    parser.add_argument("--work", type=Path, default=Path("out/pruners"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()

    console = Console(stderr=True)
    recipe = load_recipe(options.recipe)
    settings = TaskSettings(name=options.task) if options.task else recipe.task
    task = load_task(settings)
    dense = options.dense or _teacher(recipe, task, console)
    texts = {path.stem: read_text(path) for path in options.text}
    options.work.mkdir(parents=True, exist_ok=True)
    samples = options.work / "calibration.jsonl"
    _write_samples(samples, task.train[: options.calibration_samples])
    kept = Measurements(options.work / "cells")
    common = [key_of(dense), samples.read_text(), options.samples, recipe.compare.model_dump(mode="json"), texts]

    def cell(method: str, sparsity: float) -> dict[str, Any]:
        output = options.work / "model"
        chosen = [*METHODS[method], "--sparsity", str(sparsity)]
        if method != "magnitude":  # which looks at no data
            chosen += ["--task", str(samples), "--max-length", str(settings.max_length)]
            chosen += ["--calibration-samples", str(options.calibration_samples)]
        facts = prune(dense, output, chosen)
        facts |= measure(output, task, recipe, options.samples, texts)
        shutil.rmtree(output)
        return facts

    whole = kept.get(["dense", *common], lambda: measure(dense, task, recipe, options.samples, texts))
    rows: list[dict[str, Any]] = [{"method": "dense", "sparsity": 0.0, **whole}]
    _print(rows[0])
    for sparsity in options.sparsity:
        for method in options.methods:
            found = kept.get([METHODS[method], sparsity, *common], lambda m=method, s=sparsity: cell(m, s))
            rows.append({"method": method, "sparsity": sparsity, **found})
            _print(rows[-1])
    about = {"model": str(dense.name), "task": task.name, "calibration": len(task.train)}
    about["calibration"] = min(options.calibration_samples, len(task.train))
    options.results.mkdir(parents=True, exist_ok=True)
    result = save(options.results / "pruners.json", {**about, "rows": rows})
    print(table(result))
    plot(rows, options.results / "pruners.png")


def _teacher(recipe: Recipe, task: Task, console: Console) -> Path:
    dense = resolve(recipe.model)
    if not recipe.teacher:
        return dense
    stages = Stages(recipe.output, task, recipe.task.max_length, console)
    teacher = stages.tune("teacher", "teacher", dense, recipe.teacher)
    stages.carry_out("teacher")
    return path_of(teacher)


def _write_samples(file: Path, samples: tuple[Sample, ...]) -> None:
    lines = (json.dumps({"prompt": sample.prompt, "answer": sample.answer}) for sample in samples)
    write_atomically(file, "\n".join(lines) + "\n")


def _print(row: dict[str, Any]) -> None:
    numbers = [f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float) and key != "sparsity"]
    print(f"{row['method']:>14} {row['sparsity']:.0%}  {'  '.join(numbers)}", flush=True)


def table(result: dict[str, Any]) -> str:
    """Perplexity of the task and accuracy, by level and method."""
    methods = [method for method in METHODS if any(row["method"] == method for row in result["rows"])]
    lines = ["| zeros | " + " | ".join(methods) + " |", "|--:|" + "--:|" * len(methods)]
    rows = {(row["sparsity"], row["method"]): row for row in result["rows"]}
    for sparsity in sorted({row["sparsity"] for row in result["rows"][1:]}):
        cells = [_cell(rows.get((sparsity, method)), result["task"]) for method in methods]
        lines.append(f"| {sparsity:.0%} | " + " | ".join(cells) + " |")
    dense = _cell(result["rows"][0], result["task"])
    return "\n".join([*lines, "", f"Perplexity (accuracy); dense: {dense}."])


def _cell(row: dict[str, Any] | None, task: str) -> str:
    if row is None:
        return ""
    perplexity = row[f"perplexity_{task}"]
    shown = f"{perplexity:,.0f}" if perplexity >= 1000 else f"{perplexity:.2f}"
    return f"{shown} ({row['accuracy']:.0%})" if "accuracy" in row else shown


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    scales = [key for key in rows[0] if key.startswith("perplexity")] + (["accuracy"] if "accuracy" in rows[0] else [])
    figure = figures.new_figure(5.5 * len(scales), 4.4)
    for ax, key in zip(figure.subplots(1, len(scales), squeeze=False)[0], scales, strict=True):
        figures.level(ax, rows[0][key], "dense")
        for method in dict.fromkeys(row["method"] for row in rows[1:]):
            line = sorted((100 * row["sparsity"], row[key]) for row in rows if row["method"] == method)
            ax.plot(*zip(*line, strict=True), color=COLOURS[method], marker="o", label=method)
        if key != "accuracy":
            ax.set_yscale("log")
        ax.set_xlabel("zeros in the linears of the blocks, %")
        ax.set_ylabel(key.replace("_", ", "))
        figures.frame(ax)
    ax.legend(frameon=False)
    figures.save(figure, file)


if __name__ == "__main__":
    main()
