"""Why SquareHead stays behind cross-entropy in the same time: the clip of its gradient, its weight, or when it acts?

    python -m benchmarks.evidence.feature_loss                 # an hour of two cores; resumes
    python -m benchmarks.evidence.feature_loss --finished      # trains nothing, reports what is there

SmolLM2-135M on the short task of `compress`, 75% zeros in 4:16, all variants for the time of as many steps of
cross-entropy; beside them cross-entropy in as many steps as both. The first seed chooses the best variant with
SquareHead on the validation questions; that and cross-entropy, for the same time and in as many steps, are then
trained with two more seeds, and all three seeds' files asked the test, once.
Leaves feature_loss.json in results/, and what is made in the output.
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.answers import answer, without_replies
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.report import told
from benchmarks.evidence.statistics import points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, shares
from cutwork.measure.compare import Measurements
from cutwork.recipe import Losses, PruneSettings, QuantizeSettings
from cutwork.recipe_file import load_recipe
from cutwork.run.stages import Source, Stage, Stages
from cutwork.store.resolve import resolve
from cutwork.tasks.load import load_task

RECIPE = Path("benchmarks/compress/short.yaml")
RATE, STEPS, SLOWER = 4e-4, 104, 1.3  # a step with SquareHead, which asks the teacher, takes so many times as long
CE, FEWER, NOT_CLIPPED = "CE", "CE, steps as of both", "CE+SquareHead, not clipped"


@dataclass(frozen=True)
class Phase:
    """A part of a training: a share of the time that all have, what it is on, and its learning rate."""

    losses: Losses
    share: float = 1.0
    clip: float = 1.0
    rate: float = RATE

    @property
    def steps(self) -> int:
        """Those that fit into its time."""
        return round(STEPS * self.share / (SLOWER if self.losses.squarehead else 1))


BOTH = Losses(ce=1.0, squarehead=1.0)
VARIANTS = {
    CE: (Phase(Losses(ce=1.0)),),
    "CE+SquareHead": (Phase(BOTH),),
    NOT_CLIPPED: (Phase(BOTH, clip=0.0),),
    "CE+0.01SquareHead": (Phase(Losses(ce=1.0, squarehead=0.01)),),
    "CE+SquareHead, then CE": (Phase(BOTH, share=0.5), Phase(Losses(ce=1.0), share=0.5)),
    FEWER: (Phase(Losses(ce=1.0), share=1 / SLOWER),),
}


class FeatureLoss:
    """What has been made and asked so far."""

    name = "feature_loss"  # of the results
    recipe_file = RECIPE
    variants: ClassVar[Mapping[str, tuple[Phase, ...]]] = VARIANTS

    def __init__(self, options: argparse.Namespace) -> None:
        self.recipe, self.console = load_recipe(self.recipe_file), Console(stderr=True)
        self.results, self.train = options.results, not options.finished
        task = load_task(self.recipe.task)
        self.splits = {"validation": replace(task, test=task.validation), "test": task}
        self.stages = Stages(options.output, task, self.recipe.task.max_length, self.console)
        self.kept = Measurements(options.output / "measurements")
        self.teacher = self.teacher_of(options)
        self.own_pattern = self.recipe.prune.pattern
        self.pruned: dict[tuple[int, str], Stage] = {}
        self.models: dict[tuple[str, int, str], Stage] = {}
        self.phases: dict[tuple[str, int, str], list[Stage]] = {}
        self.rows: list[dict[str, Any]] = []

    def teacher_of(self, options: argparse.Namespace) -> Source:
        """What is pruned and learned from, made when stages are carried out."""
        assert self.recipe.teacher
        return self.stages.tune("teacher", "teacher", resolve(self.recipe.model), self.recipe.teacher)

    def ask(self, variant: str, seed: int, split: str, pattern: str | None = None) -> dict[str, Any] | None:
        """The row of a variant, in int8 and the recipe's pattern or another; None if it is not made and may not be."""
        stage = self.model(variant, seed, pattern or self.own_pattern)
        if stage in self.stages.missing():
            if not self.train:
                return None
            self.stages.carry_out()
        found = answer(self.kept, stage, self.splits[split], self.recipe.compare.max_new_tokens, self.console)
        row = {"variant": variant, "seed": seed, "split": split, **without_replies(found)}
        row |= {"pattern": pattern} if pattern else {}
        row |= self.clipped(variant, seed, pattern or self.own_pattern)
        self.rows.append(row)
        share, zeros = row["right"] / row["samples"], pattern or self.own_pattern
        self.console.print(f"{variant}, {zeros}, seed {seed}: {share:.1%} right of {split}", highlight=False)
        self.save()
        return row

    def save(self) -> dict[str, Any]:
        """The result as it is so far, also left in its file."""
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune")}
        about |= {"rate": RATE, "steps": {name: [each.steps for each in of] for name, of in self.variants.items()}}
        return save(self.results / f"{self.name}.json", {**about, "rows": self.rows}, compact=True)

    def clipped(self, variant: str, seed: int, pattern: str) -> dict[str, Any]:
        """In how many steps of a variant's phases the gradient was longer than 1, and the longest of all; empty where
        the logs are gone."""
        from cutwork.tune.tune import LOG  # heavy, and `tables` needs none of it

        logs = [stage.output / LOG for stage in self.phases[variant, seed, pattern]]
        if not all(log.is_file() for log in logs):
            return {}
        norms = [[json.loads(line)["grad_norm"] for line in log.read_text().splitlines()] for log in logs]
        return {"longer": [sum(x > 1 for x in each) for each in norms], "longest": round(max(map(max, norms)), 1)}

    def model(self, variant: str, seed: int, pattern: str) -> Stage:
        """The packed model of a variant, made when stages are carried out."""
        if (variant, seed, pattern) in self.models:
            return self.models[variant, seed, pattern]
        other = self._other(pattern)
        source = self.masks(seed, pattern)
        name = re.sub(r"[^a-z0-9.]+", "-", f"{variant.lower()}-{other}seed{seed}")
        for place, phase in enumerate(self.variants[variant]):
            changes = {"losses": phase.losses, "max_steps": phase.steps, "max_grad_norm": phase.clip}
            settings = self.recipe.tune.model_copy(
                update={**changes, "learning_rate": phase.rate, "seed": seed + place}
            )
            source = self.stages.tune(f"{name}-{place}", "tune", source, settings, teacher=self.teacher)
            self.phases.setdefault((variant, seed, pattern), []).append(source)
        rounded = self.stages.quantize(f"{name}-int8", source, QuantizeSettings(scheme="w8a8", method="rtn"))
        self.models[variant, seed, pattern] = self.stages.pack(f"packed/{name}", rounded, self.recipe.pack)
        return self.models[variant, seed, pattern]

    def masks(self, seed: int, pattern: str) -> Source:
        """The pruned teacher, before any training."""
        if (seed, pattern) not in self.pruned:
            name = f"pruned-{self._other(pattern)}seed{seed}"
            self.pruned[seed, pattern] = self.stages.prune(name, self.teacher, self.pruning(seed, pattern))
        return self.pruned[seed, pattern]

    def pruning(self, seed: int, pattern: str) -> PruneSettings:
        """How the teacher is pruned."""
        return self.recipe.prune.model_copy(update={"sparsity": 0.75, "seed": seed, "pattern": pattern})

    def _other(self, pattern: str) -> str:
        return "" if pattern == self.own_pattern else f"{pattern.replace(':', 'of')}-"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Of an experiment with these models: where they are, and where its results go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", action="store_true", help="train and prune nothing; report what is there")
    parser.add_argument("--output", type=Path, default=Path("out/feature-loss"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser


def main() -> None:
    experiment = FeatureLoss(arguments(__doc__).parse_args())
    for variant in VARIANTS:
        experiment.ask(variant, SEEDS[0], "validation")
    if len(experiment.rows) == len(VARIANTS):
        for seed in SEEDS:
            for variant in (CE, FEWER, best(experiment.rows)):
                experiment.ask(variant, seed, "test")
    result = experiment.save()
    print(choices(result), table(result), sep="\n\n")


def best(rows: list[dict[str, Any]]) -> str:
    """The variant with SquareHead that has most right on validation."""
    tried = [row for row in rows if row["split"] == "validation" and row["variant"] not in (CE, FEWER)]
    return str(max(tried, key=lambda row: row["right"])["variant"])


def choices(result: dict[str, Any]) -> str:
    """What each variant has right of the validation questions, minus cross-entropy in the same time and, where that is
    there, in as many steps."""
    rows = [row for row in result["rows"] if row["split"] == "validation"]
    plain = {row["variant"]: row for row in rows if row["variant"] in (CE, FEWER)}
    lines = [
        "| variant | steps | gradient longer than 1 | longest | right on validation | of | minus CE, same time [95%] "
        "| same steps |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        variant, steps = row["variant"], [phase.steps for phase in VARIANTS[row["variant"]]]
        same = {CE: variant not in plain, FEWER: variant not in plain and len(steps) == 1}
        against = [
            points(points_above(seed_pairs([row], [plain[other]]))) if alike and other in plain else "–"
            for other, alike in same.items()
        ]
        long = " + ".join(map(str, row["longer"])) + f" | {row['longest']:g}" if "longer" in row else "– | –"
        share = f"{row['right'] / row['samples']:.1%}"
        cells = [variant, " + ".join(map(str, steps)), long, share, str(row["samples"]), *against]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The test: cross-entropy and the variant that was chosen, and whether that is the announced success, by time and
    by steps."""
    groups = tested(result)
    lines = [
        "| variant | right of the test, by seed | mean [95%] | minus CE, same time [95%] | | same steps [95%] | |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    for variant, rows in groups.items():
        mean, low, high = right_share(rows)
        cells = [variant, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]"]
        for other in (CE, FEWER):
            if variant in (CE, FEWER) or other not in groups:
                cells += ["", ""]
                continue
            found = paired(groups, variant, other)
            cells += [points(found), told(found[0] >= 2 and found[1] > 0)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tested(result: dict[str, Any], by: str = "variant") -> dict[str, list[dict[str, Any]]]:
    """The test's rows by variant, or by pattern."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["split"] == "test":
            groups.setdefault(row[by], []).append(row)
    return groups


def paired(groups: dict[str, list[dict[str, Any]]], variant: str, other: str) -> tuple[float, float, float]:
    """Points of a variant minus another, over the seeds that both have, and their 95% interval."""
    return points_above(seed_pairs(groups[variant], groups[other]))


if __name__ == "__main__":
    main()
