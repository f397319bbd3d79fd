"""What zeros cost Whisper after cross-entropy and after SquareHead, on books and readers that were held out.

    python -m benchmarks.speech.data data/speech --english gsm8k/train.jsonl --train 80 --test 16 --flite \\
        --recorded en=reader en=other-books --held-out validation en reader-validation \\
        --held-out test-reader en reader-test --held-out test-other en another-reader
    python -m benchmarks.speech.losses --model openai/whisper-tiny.en    # two hours of two cores; resumes
    python -m benchmarks.speech.losses --seed 1                          # of what is fine-tuned; after seed 0
    python -m benchmarks.speech.losses --rate CE 3e-5    # where its rate was chosen before: no other is tried
    python -m benchmarks.speech.losses --finished                        # trains nothing, reports what there is

As docs/experiments.md announces: one dense fine-tuned teacher; 50% zeros, fine-tuned, then 67% from there, fine-tuned
again, by each loss at the rate that was best on validation with seed 0. Every model is packed as float32 and as int8
(W8A8 by rounding, its head too), and those files are what is asked, greedily, and what benchmarks.speech.speed times.
Replies are kept in the output directory. Leaves whisper_losses_N.json of seed N, written anew after every model, and of
all of them whisper_losses_0.png, in results/.
"""

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.speech.accuracy import HOW, transcripts
from benchmarks.speech.losses_report import NAMES, SEEDS, choices, differences, found_results, plot, table
from cutwork.errors import CutworkError
from cutwork.measure.compare import Measurements
from cutwork.recipe import Losses, PackSettings, Pruner, PruneSettings, QuantizeSettings, TaskSettings, TuneSettings
from cutwork.run.stages import Source, Stage, Stages, key_of, path_of, sample_digest
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task
from cutwork.tasks.task import Sample, Task
from cutwork.tasks.wer import word_errors

LOSSES = {
    "CE": Losses(ce=1.0),
    "SquareHead": Losses(ce=0.5, squarehead=1.0),  # as published for Whisper
    "SquareHead + KL": Losses(ce=1.0, kl=1.0, squarehead=1.0),
}
STEPS = 80  # of 4 recordings: each once
LEVELS = (0.5, 0.67)
RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
FIRST = (3, 4)  # of RATES, tried first; then on from the better one until the best has worse ones on both sides
TEACHER_RATE = 1e-5  # the paper's code has it
SPLITS = {"test-reader": "reader", "test-other": "other", "test": "machines"}  # folders of the data


class Experiment:
    """The models of one seed, each made once, and what they write down."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seed, self.finished = options.seed, options.finished
        self.console = Console(stderr=True, highlight=False)
        self.splits = {name: _speech(options.data, folder).test for folder, name in SPLITS.items()}
        self.validation = _speech(options.data, "validation").test
        train = _speech(options.data, "test", train=10_000)
        self._task = Task("speech", train.train, train.test[:1], metric="speech")
        self._kept = Measurements(options.output / "measurements")
        self._common = self._stages_in(options.output)
        self.stages = self._stages_in(options.output / f"seed{options.seed}")
        self.published: Source = resolve(options.model)
        settings = self._settings(Losses(ce=1.0), TEACHER_RATE, 0)
        self.teacher: Source | None = self._made(
            self._common, self._common.tune("teacher", "teacher", self.published, settings)
        )

    def pruned(self, pruner: Pruner, level: float, start: Source | None = None, name: str = "dense") -> Source | None:
        """Pruned in one shot: the teacher, or what was fine-tuned with fewer zeros."""
        label = f"{name} {pruner} {round(100 * level)}".replace(" ", "-")
        known = next((stage for stage in self.stages.stages if stage.name == label), None)
        start = start or self.teacher
        if known or start is None:
            return known
        settings = PruneSettings(method=pruner, sparsity=level, calibration_samples=64, seed=self.seed)
        return self._made(self.stages, self.stages.prune(label, start, settings))

    def tuned(self, pruner: Pruner, loss: str, level: float, rate: float) -> Source | None:
        """Fine-tuned with `level` zeros, after every level before it; None if nothing is to be trained."""
        name = f"{loss} {pruner} rate{rate:g}"
        model: Source | None = None
        for each in LEVELS[: LEVELS.index(level) + 1]:
            pruned = self.pruned(pruner, each, model, name if model else "dense")
            model = self._tuned(f"{name} {round(100 * each)}", loss, rate, pruned)
        return model

    def control(self, level: float, rate: float) -> Source | None:
        """The teacher trained on with cross-entropy for as long as `level` took."""
        steps = STEPS * (LEVELS.index(level) + 1)
        return self._tuned(f"dense {steps} rate{rate:g}", "CE", rate, self.teacher, steps)

    def rows(self, model: Source | None, **about: Any) -> list[dict[str, Any]]:
        """The test's rows of a model, packed in float32 and in int8."""
        result = []
        for kind in ("f32", "int8"):
            if packed := self._packed(model, kind):
                asked = {name: self._errors(packed, samples)["errors"] for name, samples in self.splits.items()}
                result.append({**about, "kind": kind, "file": packed.output.name, "errors": asked})
                rates = ", ".join(f"{name} {100 * sum(e) / sum(self.words[name]):.1f}%" for name, e in asked.items())
                shown = " ".join(str(value) for value in about.values() if value is not None)
                self.console.print(f"{shown} {kind}: wrong words {rates}")
        return result

    def choices(self, known: Sequence[dict[str, Any]], given: dict[str, float]) -> list[dict[str, Any]]:
        """The validation's word error rate of each loss and rate that was tried; what is known is not tried again.

        given: the rate of a loss for which no other is tried.
        """
        result = []
        for loss in LOSSES:
            tried = {RATES.index(row["rate"]): row for row in known if row["loss"] == loss}
            wanted = {RATES.index(given[loss])} if loss in given else set(FIRST)
            while wanted - tried.keys():
                for number in sorted(wanted - tried.keys()):
                    model = self._packed(self.tuned("alps", loss, LEVELS[0], RATES[number]), "f32")
                    if model is None:
                        return result
                    counted = self._errors(model, self.validation)
                    about = {key: sum(counted[key]) for key in ("errors", "words")}
                    tried[number] = {"loss": loss, "rate": RATES[number], **about}
                    self.console.print(f"{loss} at {RATES[number]:g}: {about} on validation")
                best = min(tried, key=lambda each: tried[each]["errors"])
                if loss in given:
                    break
                wanted |= {best - 1, best + 1} & set(range(len(RATES)))
            result += [tried[number] for number in sorted(tried)]
        return result

    @cached_property
    def words(self) -> dict[str, list[int]]:
        """Words of each recording, by split; the same whoever writes them down."""
        return {name: [word_errors([sample], [""]).words for sample in each] for name, each in self.splits.items()}

    def _tuned(self, name: str, loss: str, rate: float, start: Source | None, steps: int = STEPS) -> Stage | None:
        label = name.lower().replace(" + ", "-").replace(" ", "-")
        known = next((stage for stage in self.stages.stages if stage.name == label), None)
        if start is None or known in self.stages.missing():
            return None
        settings = self._settings(LOSSES[loss], rate, self.seed).model_copy(update={"max_steps": steps})
        stage = known or self.stages.tune(label, "tune", start, settings, teacher=self.teacher)
        return self._made(self.stages, stage)

    def _packed(self, model: Source | None, kind: str) -> Stage | None:
        """The file that is asked and timed."""
        if model is None:
            return None
        stages = self._common if model in (self.teacher, self.published) else self.stages
        name = "published" if model is self.published else path_of(model).name
        label = f"{name}-{kind}"
        if known := next((stage for stage in stages.stages if stage.name == label), None):
            return known
        if kind == "int8":
            rounded = stages.quantize(f"{name}-rounded", model, QuantizeSettings(method="rtn"))
            return self._made(stages, stages.pack(label, rounded, PackSettings(dtype="f32", head="i8")))
        return self._made(stages, stages.pack(label, model, PackSettings(dtype="f32")))

    def _errors(self, packed: Stage, samples: Sequence[Sample]) -> dict[str, Any]:
        """Wrong words and words of each recording, with what was written down; asked once."""

        def ask() -> dict[str, Any]:
            replies = transcripts(packed.output, tuple(samples))
            counted = [word_errors([sample], [reply]) for sample, reply in zip(samples, replies, strict=True)]
            return {
                "errors": [each.errors for each in counted],
                "words": [each.words for each in counted],
                "replies": replies,
            }

        return self._kept.get([key_of(packed), HOW, sample_digest(tuple(samples))], ask)

    def _settings(self, losses: Losses, rate: float, seed: int) -> TuneSettings:
        return TuneSettings(
            max_steps=STEPS,
            learning_rate=rate,
            weight_decay=1e-4,
            warmup_steps=8,
            batch_size=4,
            micro_batch_size=4,
            losses=losses,
            seed=seed,
        )

    def _stages_in(self, output: Path) -> Stages:
        return Stages(output, self._task, 448, self.console)

    def _made(self, stages: Stages, stage: Stage) -> Stage | None:
        if stage in stages.missing():
            if self.finished:
                return None
            stages.carry_out()
        return stage


def _speech(data: Path, folder: str, train: int = 1) -> Task:
    options: dict[str, Any] = {"directory": str(data), "test": folder}
    return load_task(TaskSettings(name="speech", train_samples=train, test_samples=10_000, options=options))


def best_rates(chosen: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The rate of each loss with the fewest wrong words on validation."""
    rows = {loss: [row for row in chosen if row["loss"] == loss] for loss in NAMES}
    return {loss: min(rows[loss], key=lambda row: row["errors"])["rate"] for loss in NAMES if rows[loss]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openai/whisper-tiny.en", help="the dense model, a checkpoint")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "speech", help="of benchmarks.speech.data")
    parser.add_argument("--seed", type=int, choices=SEEDS, default=0)
    parser.add_argument(
        "--rate",
        nargs=2,
        action="append",
        default=[],
        metavar=("LOSS", "RATE"),
        help="the loss's rate, chosen before (repeatable)",
    )
    parser.add_argument(
        "--pruners", nargs="+", choices=("alps", "sparsegpt"), default=["alps"], help="whose masks are fine-tuned"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "whisper-losses")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    options = parser.parse_args()
    given = {loss: float(rate) for loss, rate in options.rate}
    if not (given.keys() <= LOSSES.keys() and set(given.values()) <= set(RATES)):
        parser.error(f"--rate takes one of {', '.join(LOSSES)} and one of {', '.join(f'{each:g}' for each in RATES)}")

    try:
        experiment = Experiment(options)
    except CutworkError as error:
        raise SystemExit(str(error)) from None
    before = found_results(options.results)
    chosen = before.get(SEEDS[0], {}).get("choices", [])
    if options.seed == SEEDS[0]:
        chosen = experiment.choices(chosen, given)
    if not chosen:
        raise SystemExit("no rate is chosen; run seed 0 first")
    rates = best_rates(chosen)
    rows: list[dict[str, Any]] = []

    def report(model: Source | None, method: str, pruner: str | None, level: float, **about: Any) -> None:
        rows.extend(experiment.rows(model, method=method, pruner=pruner, level=level, **about))
        content: dict[str, Any] = {
            "seed": options.seed,
            "model": Path(options.model).name,
            "steps": STEPS,
            "recordings": len(experiment.stages.task.train),
            "data": {name: sample_digest(samples) for name, samples in experiment.splits.items()},
            "words": experiment.words,
            "choices": chosen if options.seed == SEEDS[0] else [],
            "rows": rows,
        }
        save(options.results / f"whisper_losses_{options.seed}.json", content, compact=True)

    options.results.mkdir(parents=True, exist_ok=True)
    report(experiment.teacher, "dense", None, 0.0, seed=None)
    for pruner in options.pruners:
        for level in LEVELS:
            for loss, rate in rates.items():
                model = experiment.tuned(pruner, loss, level, rate)
                report(model, loss, pruner, level, seed=options.seed, rate=rate)
    report(experiment.published, "as published", None, 0.0, seed=None)
    for pruner in ("alps", "sparsegpt"):
        for level in LEVELS:
            report(experiment.pruned(pruner, level), "one-shot", pruner, level, seed=options.seed)
    control = experiment.control(LEVELS[-1], rates["CE"])
    report(control, "dense, trained on", None, 0.0, seed=options.seed, rate=rates["CE"])
    results = list(found_results(options.results).values())
    plot(results, options.results / "whisper_losses_0.png")
    print(choices(*results), table(*results), differences(*results), sep="\n\n")


if __name__ == "__main__":
    main()
