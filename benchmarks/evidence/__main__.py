"""SmolLM2-135M on GSM-Symbolic, as docs/experiments.md announces it: teacher, rates, core, controls, test.

    python -m benchmarks.evidence                       # days on two cores; interrupt it, run it again
    python -m benchmarks.evidence --until rates         # so far and no further
    python -m benchmarks.evidence --losses CE CE+SquareHead --levels 0.75    # the primary outcome first
    python -m benchmarks.evidence --finished            # trains nothing, reports the cells that are there

Choices are made on the validation split. The test and the unseen templates are asked once for each finished cell; all
replies are kept in the output directory. Leaves evidence.json and evidence.png in results/.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.answers import answer, without_replies
from benchmarks.evidence.cells import LEVELS, LOSSES, PRIMARY, RATES, SEEDS, Cell, pruned
from benchmarks.evidence.data import splits
from benchmarks.evidence.report import plot, table
from cutwork.measure.compare import Measurements
from cutwork.recipe import load_recipe
from cutwork.run.stages import Stage, Stages
from cutwork.store.json_file import read_json
from cutwork.store.resolve import resolve
from cutwork.tune.tune import REPORT

STEPS = ("teacher", "rates", "core", "controls")


class Experiment:
    """What has been made and asked so far; `rows` are the results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.recipe, self.console = load_recipe(options.recipe), Console(stderr=True)
        self.splits = splits(self.recipe)
        self.results, self.train = options.results, not options.finished
        output = options.output or self.recipe.output
        self.stages = Stages(output, self.splits["validation"], self.recipe.task.max_length, self.console)
        self.kept = Measurements(output / "measurements")
        assert self.recipe.teacher
        self.settings = self.recipe.teacher
        self.teacher = self.stages.tune("teacher", "teacher", resolve(self.recipe.model), self.settings)
        self.rows: list[dict[str, Any]] = []

    def ask(self, stage: Stage, *asked: str, **about: Any) -> dict[str, Any] | None:
        """Make a model unless it is there, and ask it the questions of some splits; the last row, None without it."""
        if stage in self.stages.missing():
            if not self.train:
                return None
            self.stages.carry_out()
        for split in asked:
            found = answer(self.kept, stage, self.splits[split], self.recipe.compare.max_new_tokens, self.console)
            row = {**about, "split": split, **without_replies(found)}
            self.rows.append(row)
            name = ", ".join(map(str, about.values()))
            self.console.print(f"{name}: {row['right'] / row['samples']:.1%} right of {split}", highlight=False)
        self.save()
        return row

    def save(self) -> None:
        """Write what there is."""
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune", "tune")}
        result = save(self.results / "evidence.json", {**about, "rows": self.rows}, compact=True)
        plot(result, self.results / "evidence.png")

    def tune(self, cell: Cell) -> Stage:
        """The stage that makes a cell."""
        return cell.stage(self.recipe, self.stages, self.teacher)

    def gate(self) -> None:
        """The teacher, and what one more epoch of it brings on validation: at most a point, or it is no teacher."""
        self.ask(self.teacher, "validation", kind="teacher")
        changes = {"epochs": 1.0, "learning_rate": self.settings.learning_rate / 2}
        more = self.stages.tune("teacher-more", "tune", self.teacher, self.settings.model_copy(update=changes))
        self.ask(more, "validation", kind="teacher, one more epoch")

    def rate(self, loss: str) -> float | None:
        """The rate whose model is best on validation, at the first level and half length; None if some are missing."""
        tried = {}
        for rate in RATES:
            stage = self.tune(Cell(loss, LEVELS[0], SEEDS[0], rate, self.recipe.tune.max_steps // 2))
            row = self.ask(stage, "validation", kind="rate", loss=loss, level=LEVELS[0], rate=rate)
            tried[rate] = row["right"] if row else -1
        return None if min(tried.values()) < 0 else max(tried, key=tried.__getitem__)

    def core(self, rates: dict[str, float], levels: list[float], seeds: list[int]) -> None:
        """Every loss at every level with every seed, and what they all start from."""
        for level in levels:
            for seed in seeds:
                start = pruned(self.recipe, self.stages, self.teacher, level, seed)
                self.ask(start, "test", "unseen", kind="one-shot", level=level, seed=seed)
                self.tuned("core", rates, level, seed)

    def equal_time(self, rates: dict[str, float], seeds: list[int]) -> None:
        """Cross-entropy for as many steps as fit the time that SquareHead took, at the first level."""
        for seed in seeds:
            cells = [Cell(loss, LEVELS[0], seed, rates[loss], self.recipe.tune.max_steps) for loss in PRIMARY]
            reports = [self.tune(cell).output / REPORT for cell in cells]
            if all(report.is_file() for report in reports):
                plain, both = (read_json(report)["tokens_per_second"] for report in reports)
                stage = self.tune(replace(cells[0], steps=round(cells[0].steps * plain / both)))
                about = {"loss": "CE", "level": LEVELS[0], "seed": seed, "rate": rates["CE"]}
                self.ask(stage, "test", "unseen", kind="equal time", **about)

    def tuned(self, kind: str, rates: dict[str, float], level: float, seed: int) -> None:
        """One model for each loss, asked the test's questions."""
        for loss, rate in rates.items():
            stage = self.tune(Cell(loss, level, seed, rate, self.recipe.tune.max_steps))
            self.ask(stage, "test", "unseen", kind=kind, loss=loss, level=level, seed=seed, rate=rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("smollm2.yaml"))
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--levels", nargs="+", type=float, default=list(LEVELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    options = parser.parse_args()

    experiment = Experiment(options)
    until = STEPS.index(options.until)
    experiment.gate()
    rates = {}
    if until >= STEPS.index("rates"):
        chosen = {loss: experiment.rate(loss) for loss in options.losses}
        rates = {loss: rate for loss, rate in chosen.items() if rate is not None}
    if until >= STEPS.index("core"):
        experiment.ask(experiment.teacher, "test", "unseen", kind="teacher")
        experiment.core(rates, options.levels, options.seeds)
        if set(PRIMARY) <= rates.keys():
            experiment.equal_time(rates, options.seeds)
    if until >= STEPS.index("controls"):
        again = {loss: rate for loss, rate in rates.items() if loss in PRIMARY}
        for seed in options.seeds:
            experiment.tuned("control", again, 0.0, seed)
    print(table({"rows": experiment.rows}))


if __name__ == "__main__":
    main()
