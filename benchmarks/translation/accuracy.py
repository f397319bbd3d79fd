"""A T5 that learns to translate, and what pruning costs it: CE against SquareHead, and int8, in BLEU and chrF.

    python -m benchmarks.translation.accuracy --extra pairs.json    # 1.5 hours on two cores; interrupt it, run it again

No T5 is at hand without the Hub, so this one is trained from scratch on sentences with numbers, dates, times and prices
made in English and German. `--extra` mixes in real pairs, a JSON list of [English, German].
From that dense teacher each model is pruned in one shot and fine-tuned on the same tokens. Held-out sentences are then
translated by the engine, greedily and with five beams. Leaves t5.json and t5.png in results/. Needs num2words, babel.
"""

import argparse
import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common import figures
from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.training.distillation import smoothed
from benchmarks.translation.model import PREFIX, write_model, write_tokenizer
from cutwork.engine.model import Model
from cutwork.measure.compare import Measurements
from cutwork.measure.quality import accuracy
from cutwork.recipe import Losses, PruneSettings, QuantizeSettings, TuneSettings
from cutwork.run.stages import Source, Stages, key_of, path_of, sample_digest
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample, Task

LOSSES = {"CE": Losses(ce=1.0), "SquareHead": Losses(ce=1.0, squarehead=1.0)}
VOCABULARY = 4096
BEAMS = 5


def make_task(train: int, test: int, seed: int, extra: Path | None) -> Task:
    """Made sentences, and one real pair in ten where there are any; the test is made sentences only."""
    from benchmarks.translation.sentences import pairs, read_extra

    chosen = list(islice(pairs(seed, held_out=False), train))
    if extra:
        rng = random.Random(seed)
        found = read_extra(extra)
        rng.shuffle(found)
        chosen[: train // 10] = found[: train // 10]
    samples = [
        tuple(Sample(PREFIX + english, german) for english, german in part)
        for part in (chosen, islice(pairs(seed, held_out=True), test))
    ]
    return Task("translation", *samples, metric="translation")


def models(
    stages: Stages, sparsities: list[float], seed: int, teacher_steps: int, steps: int, again: bool
) -> list[tuple[str, float, Source]]:
    """(method, sparsity, model) of everything compared; adds the stages that make them."""

    def random_model(output: Path) -> None:
        with output_directory(output) as partial:
            texts = [text for sample in stages.task.train for text in (sample.prompt, sample.answer)]
            write_tokenizer(partial, texts, VOCABULARY)
            write_model(partial, seed)

    settings = TuneSettings(
        max_steps=teacher_steps,
        learning_rate=1.5e-3,
        warmup_steps=200,
        batch_size=64,
        micro_batch_size=64,
        save_every=100,
        seed=seed,
    )
    start = stages.add("random", "teacher", random_model, [seed, sample_digest(stages.task.train)])
    dense = stages.tune("teacher", "teacher", start, settings)
    tuned = settings.model_copy(update={"max_steps": steps, "learning_rate": 1e-3, "warmup_steps": 20})
    compared: list[tuple[str, float, Source]] = [("dense", 0.0, dense)]
    for sparsity in sparsities:
        percent = round(100 * sparsity)
        one_shot = PruneSettings(method="sparsegpt", sparsity=sparsity)
        pruned = stages.prune(f"pruned-{percent}", dense, one_shot)
        compared.append(("one-shot", sparsity, pruned))
        for name, losses in LOSSES.items():
            changed = tuned.model_copy(update={"losses": losses})
            compared.append(
                (name, sparsity, stages.tune(f"{name.lower()}-{percent}", "tune", pruned, changed, teacher=dense))
            )
    for method, sparsity, model in [*compared]:
        if method in ("dense", "SquareHead"):
            name = f"w8a8-{round(100 * sparsity)}"
            compared.append((f"{method} W8A8", sparsity, stages.quantize(name, model, QuantizeSettings())))
    if again:
        compared.append(("dense, tuned again", 0.0, stages.tune("dense-again", "tune", dense, tuned)))
    return compared


def measured(kept: Measurements, method: str, sparsity: float, model: Source, task: Task, console: Console) -> Any:
    """BLEU, chrF and exact matches of one model, unless `kept` has them."""

    def measure_it() -> dict[str, Any]:
        with Model.load(path_of(model), max_batch=16 * BEAMS) as engine:
            found: dict[str, Any] = {"sparsity": engine.sparsity, "memory_bytes": engine.memory_bytes["weights"]}
            for way, beams in (("beam", BEAMS), ("greedy", 1)):
                score = accuracy(engine, task, max_new_tokens=96, num_beams=beams, console=console)
                found[way] = {"accuracy": score.accuracy, **score.quality}
        return found

    row = kept.get([key_of(model), sample_digest(task.test)], measure_it)
    console.print(f"{method} {sparsity:.0%}: BLEU {row['beam']['bleu']:.1f}, chrF {row['beam']['chrf']:.1f}")
    return {"method": method, "target_sparsity": sparsity, **row}


def table(result: dict[str, Any]) -> str:
    """BLEU and chrF of every model."""
    lines = [
        f"| model | zeros | BLEU, {BEAMS} beams | chrF | all right | BLEU, greedy | MB |",
        "|---|" + "--:|" * 6,
    ]
    for row in result["rows"]:
        beam = row["beam"]
        lines.append(
            f"| {row['method']} | {row['target_sparsity']:.0%} | {beam['bleu']:.1f} | {beam['chrf']:.1f} "
            f"| {beam['accuracy']:.1%} | {row['greedy']['bleu']:.1f} | {row['memory_bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], curves: dict[str, list[float]], file: Path) -> None:
    figure = figures.new_figure(11, 4.4)
    quality, loss = figure.subplots(1, 2)
    for row in rows:
        if not row["target_sparsity"] and "W8A8" not in row["method"]:
            dashes = "--" if row["method"] == "dense" else ":"
            figures.level(quality, row["beam"]["bleu"], row["method"], dashes)
    for method, (colour, marker, dashes) in figures.STYLES.items():
        line = sorted((100 * row["target_sparsity"], row["beam"]["bleu"]) for row in rows if row["method"] == method)
        if line:
            quality.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=dashes, label=method)
    quality.set(xlabel="zeros in the linears of the blocks, %", ylabel=f"BLEU of held-out sentences, {BEAMS} beams")
    quality.set_ylim(bottom=0)
    for name, curve in curves.items():
        method, _, percent = name.rpartition(" ")
        colour = figures.STYLES[method][0] if method in figures.STYLES else figures.GREY
        width = {"50": 0.7, "75": 1.2, "85": 1.8}.get(percent.rstrip("%"), 1.2)
        loss.plot(curve, color=colour, linewidth=width, label=name)
    loss.set(xlabel="optimiser step of the fine-tuning", ylabel="cross entropy, smoothed", yscale="log")
    for ax in (quality, loss):
        figures.frame(ax)
        ax.legend(frameon=False, fontsize=8)
    figures.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", type=Path, help="a JSON list of [English, German] to mix in")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.75, 0.85])
    parser.add_argument("--train", type=int, default=100_000, help="sentence pairs")
    parser.add_argument("--test", type=int, default=500, help="held-out sentence pairs")
    parser.add_argument("--teacher-steps", type=int, default=1500, help="of 64 sentences")
    parser.add_argument("--steps", type=int, default=250, help="of each sparse fine-tuning")
    parser.add_argument("--again", action="store_true", help="also fine-tune the dense one a second time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "t5")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure", action="store_true", help="train nothing: measure the models that are there")
    options = parser.parse_args()

    task = make_task(options.train, options.test, options.seed, options.extra)
    console = Console(stderr=True)
    stages = Stages(options.output, task, 256, console)
    compared = models(stages, options.sparsity, options.seed, options.teacher_steps, options.steps, options.again)
    if not options.measure:
        stages.carry_out()

    kept = Measurements(options.output / "measurements")
    missing = stages.missing()
    rows = [measured(kept, *row, task, console) for row in compared if row[2] not in missing]
    curves = {
        f"{method} {sparsity:.0%}": loss_curve(path_of(model))
        for method, sparsity, model in compared
        if method in LOSSES and model not in missing
    }
    about = {
        "train_pairs": len(task.train),
        "test_pairs": len(task.test),
        "teacher_steps": options.teacher_steps,
        "steps": options.steps,
        "beams": BEAMS,
        "example": [task.test[0].prompt, task.test[0].answer],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    result = save(options.results / "t5.json", {**about, "rows": rows, "curves": curves}, compact=True)
    plot(rows, curves, options.results / "t5.png")
    print(table(result))


def loss_curve(model: Path) -> list[float]:
    """The cross entropy of a fine-tuning, step by step, smoothed."""
    lines = (model / "tune-log.jsonl").read_text().splitlines()
    return [round(value, 4) for value in smoothed([json.loads(line)["ce"] for line in lines if '"ce"' in line])]


if __name__ == "__main__":
    main()
