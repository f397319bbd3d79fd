"""An experiment as it goes on: what has been made, what was asked of it, and the rows that came of that."""

import argparse
from dataclasses import replace
from operator import itemgetter
from typing import Any

from rich.console import Console

from benchmarks.common.results import save
from benchmarks.evidence.answers import answer, without_replies
from benchmarks.evidence.cells import Cell, pruned
from benchmarks.evidence.data import splits
from benchmarks.evidence.designs import DESIGNS, PRIMARY, SEEDS
from benchmarks.evidence.report import plot
from cutwork.measure.compare import Measurements
from cutwork.recipe import PackSettings, QuantizeSettings, Recipe
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Stage, Stages
from cutwork.store.json_file import read_json
from cutwork.store.resolve import resolve
from cutwork.tune.tune import REPORT

ENCODINGS = ("int8", "int4")


class Experiment:
    """What has been made and asked so far; `rows` are the results."""

    def __init__(self, options: argparse.Namespace, recipe: Recipe | None = None) -> None:
        """`recipe`: by default the design's own."""
        self.design = DESIGNS[options.design]
        self.recipe, self.console = recipe or load_recipe(self.design.recipe), Console(stderr=True)
        self.splits = splits(self.design, self.recipe)
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

    def asked(self, stage: Stage) -> Stage:
        """A model in the encoding in which it is asked."""
        return stage if self.design.asked == "float" else self.packed(stage, self.design.asked)

    def packed(self, model: Stage, encoding: str) -> Stage:
        """A model's file in bf16, int8, by rounding, or int4, as the recipe says, or "int4, head too" (rounded) or
        "int4, head by GPTQ"; the one that is there, if it is."""
        name = f"{model.name}-{encoding.replace(', ', '-').replace(' ', '-')}"
        there = {stage.name: stage for stage in self.stages.stages}
        if found := there.get(f"packed/{name}"):
            return found
        if encoding == "bf16":
            return self.stages.pack(f"packed/{name}", model, PackSettings(dtype="bf16"))
        if encoding == "int8":
            rounded = self.stages.quantize(name, model, QuantizeSettings(scheme="w8a8", method="rtn"))
            return self.stages.pack(f"packed/{name}", rounded, self.recipe.pack)
        assert self.recipe.quantize
        settings = self.recipe.quantize.model_copy(update={"scheme": "w4a16"})
        if encoding == "int4, head by GPTQ":
            rounded = self.stages.quantize(name, model, settings.model_copy(update={"head": "w4a16"}))
            own = self.recipe.pack.model_copy(update={"head": "auto", "embedding": "i8"})
            return self.stages.pack(f"packed/{name}", rounded, own)
        rounded = there.get(f"{model.name}-int4") or self.stages.quantize(f"{model.name}-int4", model, settings)
        pack = self.recipe.pack if encoding == "int4" else self.recipe.pack.model_copy(update={"head": "i4"})
        return self.stages.pack(f"packed/{name}", rounded, pack)

    def save(self) -> None:
        """Write what there is."""
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune", "tune")}
        result = save(self.results / f"{self.design.result}.json", {**about, "rows": self.rows}, compact=True)
        plot(result, self.results / f"{self.design.result}.png")

    def steps(self, loss: str, share: float | None = None) -> int:
        """Of a cell with a loss; `share` as the design says of all but the cells by which rates are chosen."""
        share = self.design.longer if share is None else share
        return round(round(self.recipe.tune.max_steps * self.design.steps.get(loss, 1.0)) * share)

    def tune(self, cell: Cell) -> Stage:
        """The stage that makes a cell."""
        return cell.stage(self.recipe, self.stages, self.teacher)

    def gate(self) -> None:
        """What one more epoch of the teacher brings on validation: at most a point, or it is no teacher."""
        changes = {"epochs": 1.0, "learning_rate": self.settings.learning_rate / 2}
        more = self.stages.tune("teacher-more", "tune", self.teacher, self.settings.model_copy(update=changes))
        for stage, kind in ((self.teacher, "teacher, for the gate"), (more, "teacher, one more epoch")):
            self.ask(self.asked(stage), "validation", kind=kind)

    def rate(self, loss: str) -> float | None:
        """The rate whose model is best on validation, at the first level; None if some are missing."""
        level, tried = self.design.levels[0], {}
        for rate in self.design.rates:
            stage = self.tune(Cell(loss, level, SEEDS[0], rate, self.steps(loss, self.design.rate_share)))
            row = self.ask(self.asked(stage), "validation", kind="rate", loss=loss, level=level, rate=rate)
            tried[rate] = row["right"] if row else -1
        return None if min(tried.values()) < 0 else max(tried, key=tried.__getitem__)

    def leading(self, rates: dict[str, float]) -> str:
        """The loss whose model was best on validation."""
        tried = (row for row in self.rows if row["kind"] == "rate" and row["loss"] in rates)
        return str(max(tried, key=itemgetter("right"))["loss"])

    def core(self, rates: dict[str, float], levels: list[float], seeds: list[int]) -> None:
        """Every loss at every level with every seed, and what they all start from."""
        for level in levels:
            for seed in seeds:
                start = pruned(self.recipe, self.stages, self.teacher, level, seed)
                self.ask(self.asked(start), "test", "unseen", kind="one-shot", level=level, seed=seed)
                self.tuned("core", rates, level, seed)

    def equal_time(self, rates: dict[str, float], seeds: list[int]) -> None:
        """Cross-entropy for as many steps as fit the time that SquareHead took, at the first level."""
        level = self.design.levels[0]
        for seed in seeds:
            cells = [Cell(loss, level, seed, rates[loss], self.steps(loss)) for loss in PRIMARY]
            reports = [self.tune(cell).output / REPORT for cell in cells]
            if all(report.is_file() for report in reports):
                plain, both = (read_json(report)["tokens_per_second"] for report in reports)
                stage = self.tune(replace(cells[0], steps=round(cells[0].steps * plain / both)))
                about = {"loss": "CE", "level": level, "seed": seed, "rate": rates["CE"]}
                self.ask(self.asked(stage), "test", "unseen", kind="equal time", **about)

    def tuned(self, kind: str, rates: dict[str, float], level: float, seed: int) -> None:
        """One model for each loss, asked the test's questions."""
        for loss, rate in rates.items():
            stage = self.tune(Cell(loss, level, seed, rate, self.steps(loss)))
            self.ask(self.asked(stage), "test", "unseen", kind=kind, loss=loss, level=level, seed=seed, rate=rate)

    def quantized(self, rates: dict[str, float], levels: list[float], seeds: list[int]) -> None:
        """What the files that are timed answer to the test: the teacher's and the loss's that led on validation."""
        loss = self.leading(rates)
        models: list[tuple[Stage, dict[str, Any]]] = [(self.teacher, {"level": 0.0})]
        for level in levels:
            for seed in seeds:
                stage = self.tune(Cell(loss, level, seed, rates[loss], self.steps(loss)))
                models.append((stage, {"level": level, "seed": seed, "loss": loss}))
        for stage, about in models:
            for encoding in ENCODINGS:
                packed = self.packed(stage, encoding)
                self.ask(packed, "test", kind="quantized", encoding=encoding, file=packed.output.name, **about)
        if self.design.leading_only:  # the control, so that no file is better for its training alone
            control = self.tune(Cell(loss, 0.0, seeds[0], rates[loss], self.steps(loss)))
            for encoding in ENCODINGS:
                about = {"encoding": encoding, "level": 0.0, "seed": seeds[0], "loss": loss}
                self.ask(self.packed(control, encoding), "test", kind="control, quantized", **about)
        plain = self.packed(self.teacher, "bf16")
        self.ask(plain, "test", kind="quantized", encoding="bf16", file=plain.output.name, level=0.0)
