"""What pruning costs Whisper and what sparse fine-tuning brings back: word error rates.

    python -m benchmarks.speech.data data/speech --english gsm8k/train.jsonl --real librivox --flite \\
        --recorded en=LJSpeech-1.1
    python -m benchmarks.speech.accuracy    # over an hour on one core; interrupt it, run it again

From one dense fine-tuned teacher, level after level of the recipe: pruned, then fine-tuned with cross-entropy alone and
with SquareHead, each on the same recordings, and in W8A8. Transcripts, greedy but where a text repeats itself, of
held-out synthetic speech and, where the data has a folder `real`, of real recordings. Leaves a .json and a .png
of the recipe's name in results/.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.results import RECIPES, RESULTS, save
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.recipe import Losses, Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Source, Stage, Stages, key_of, path_of, sample_digest
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample
from cutwork.tasks.wer import word_errors

# Greedily, without times; where the text repeats itself, again at higher temperatures, as Whisper is used.
HOW: dict[str, Any] = {
    "beam_size": 1,
    "best_of": 1,
    "seed": 0,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
    "without_timestamps": True,
}


def models(recipe: Recipe, stages: Stages, names: list[str]) -> list[tuple[str, float, Source]]:
    """(method, sparsity, model) of everything compared, with the losses called; adds the stages that make them."""
    assert recipe.quantize
    losses = {"SquareHead": recipe.tune.losses, "CE": Losses(ce=1.0)}
    losses = {name: losses[name] for name in names}
    plain: Source = resolve(recipe.model)
    dense: Source = stages.tune("teacher", "teacher", plain, recipe.teacher) if recipe.teacher else plain
    compared: list[tuple[str, float, Source]] = [
        ("as published", 0.0, plain),
        ("dense", 0.0, dense),
        ("dense W8A8", 0.0, stages.quantize("dense-w8a8", dense, recipe.quantize)),
    ]
    for name, loss in losses.items():
        model, settings = dense, recipe.tune.model_copy(update={"losses": loss})
        for level in recipe.prune.levels:
            percent = round(100 * level)
            start = model is dense  # the first pruning is the same for both
            label = f"pruned-{percent}" if start else f"{name.lower()}-pruned-{percent}"
            known = next((stage for stage in stages.stages if stage.name == label), None)
            pruned = known or stages.prune(label, model, recipe.prune.at(level))
            if start and known is None:
                compared.append(("one-shot", level, pruned))
            model = stages.tune(f"{name.lower()}-{percent}", "tune", pruned, settings, teacher=dense)
            compared.append((name, level, model))
            if name == "SquareHead":
                compared.append((f"{name} W8A8", level, stages.quantize(f"w8a8-{percent}", model, recipe.quantize)))
    for level in recipe.prune.levels[1:]:
        compared.append(
            ("one-shot", level, stages.prune(f"pruned-{round(100 * level)}", dense, recipe.prune.at(level)))
        )
    return compared


def by_language(name: str, samples: tuple[Sample, ...]) -> dict[str, tuple[Sample, ...]]:
    """Samples apart by the language they are in, if there are several."""
    languages = sorted({sample.prompt for sample in samples})
    if len(languages) == 1:
        return {name: samples}
    return {f"{name} {language}": tuple(s for s in samples if s.prompt == language) for language in languages}


def transcripts(path: Path, samples: tuple[Sample, ...]) -> list[str]:
    """Transcripts of recordings of up to 30 seconds by the engine."""
    with Model.load(path) as model:
        return [model.transcribe(sample.audio, language=sample.prompt or None, **HOW).text for sample in samples]


def measure(path: Path, splits: dict[str, tuple[Sample, ...]]) -> dict[str, Any]:
    """The word error rate of each split and what was counted."""
    result = {}
    for name, samples in splits.items():
        replies = transcripts(path, samples)
        counted = word_errors(samples, replies, path)
        result[name] = {"wer": counted.rate, "errors": counted.errors, "words": counted.words, "replies": replies}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPES / "whisper-tiny.en-speech.yaml")
    parser.add_argument("--model", help="a directory or Hub name instead of the recipe's")
    parser.add_argument("--data", help="the folder of speech instead of the recipe's")
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the .json and .png go")
    parser.add_argument("--losses", nargs="+", choices=("SquareHead", "CE"), default=["SquareHead", "CE"])
    parser.add_argument("--finished", action="store_true", help="train nothing, report what there is")
    options = parser.parse_args()

    console = Console(stderr=True)
    recipe = load_recipe(options.recipe)
    if options.model:
        recipe = recipe.model_copy(update={"model": options.model})
    where = {**recipe.task.options, **({"directory": options.data} if options.data else {})}
    settings = recipe.task.model_copy(update={"options": where})
    task = load_task(settings)
    splits = by_language("synthetic", task.test)
    if (Path(where["directory"]) / "real").is_dir():
        everything = {"options": {**where, "test": "real"}, "test_samples": 10_000}
        splits |= by_language("real", load_task(settings.model_copy(update=everything)).test)
    output = options.output or recipe.output
    stages = Stages(output, task, recipe.task.max_length, console)
    compared = models(recipe, stages, options.losses)
    if options.finished:
        missing = {stage.name for stage in stages.missing()}
        compared = [row for row in compared if not (isinstance(row[2], Stage) and row[2].name in missing)]
    else:
        stages.carry_out()

    kept = Measurements(output / "measurements")
    rows = []
    for method, sparsity, model in compared:
        key = [key_of(model), HOW, {name: sample_digest(samples) for name, samples in splits.items()}]
        measured = kept.get(key, lambda model=model: measure(path_of(model), splits))
        shown = {name: {k: v for k, v in split.items() if k != "replies"} for name, split in measured.items()}
        rates = ", ".join(f"{name} {split['wer']:.1f}%" for name, split in shown.items())
        console.print(f"{method} {sparsity:.0%}: word error rate {rates}", highlight=False)
        rows.append({"method": method, "sparsity": sparsity, **shown})
    options.results.mkdir(parents=True, exist_ok=True)
    about = {
        "recipe": recipe.name,
        "task": {**settings.model_dump(mode="json"), "options": recipe.task.options},
        "teacher": recipe.teacher.model_dump(mode="json") if recipe.teacher else None,
        "tune": recipe.tune.model_dump(mode="json"),
    }
    result = save(options.results / f"{recipe.name}.json", {**about, "rows": rows})
    plot(rows, options.results / f"{recipe.name}.png")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """Word error rates, %, one column for each kind of speech with the number of its words."""
    rows = result["rows"]
    splits = [key for key in rows[0] if key not in ("method", "sparsity")]
    heads = [f"{name} ({rows[0][name]['words']:,} words)" for name in splits]
    lines = ["| model | zeros | " + " | ".join(heads) + " |", "|---|--:|" + "--:|" * len(splits)]
    order = list(dict.fromkeys(row["method"] for row in rows))
    for row in sorted(rows, key=lambda row: (row["sparsity"], order.index(row["method"]))):
        rates = " | ".join(f"{row[name]['wer']:.1f}" for name in splits)
        lines.append(f"| {row['method']} | {row['sparsity']:.0%} | {rates} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    splits = [key for key in rows[0] if key not in ("method", "sparsity")]
    figure = figures.new_figure(5.6 * len(splits), 4.6)
    for ax, split in zip(figure.subplots(1, len(splits), squeeze=False)[0], splits, strict=True):
        dense = next(row for row in rows if row["method"] == "dense")[split]
        figures.level(ax, dense["wer"], "dense")
        for method, (colour, marker, dashes) in figures.STYLES.items():
            line = sorted((100 * row["sparsity"], row[split]["wer"]) for row in rows if row["method"] == method)
            if line:
                ax.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=dashes, label=method)
        ax.set_xlabel("zeros in the linears of the blocks, %")
        ax.set_ylabel(f"word error rate, % of {dense['words']} words")
        ax.set_title(f"{split} speech", fontsize=11)
        ax.set_ylim(0, 105)
        figures.frame(ax)
    figure.axes[0].legend(frameon=False, loc="upper left")
    figures.save(figure, file)


if __name__ == "__main__":
    main()
