"""GSM8K on Qwen2.5-Coder-0.5B: models with zeros, by their losses, beside a dense one that was trained for as long.

    python -m benchmarks.evidence.gsm8k                 # days of two cores; interrupt it, run it again
    python -m benchmarks.evidence.gsm8k --cells 2       # so far and no further
    python -m benchmarks.evidence.gsm8k --model DIR --data DIR      # without the Hub
    python -m benchmarks.evidence.gsm8k --finished      # trains nothing, reports what is there

As docs/experiments.md announces: the test's 1,319 problems, each finished file asked once, all replies kept in the
output directory. Leaves gsm8k.json in results/.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.cells import Cell, pruned
from benchmarks.evidence.data import recipe_of
from benchmarks.evidence.designs import DESIGNS
from benchmarks.evidence.experiment import Experiment
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import mcnemar, points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, shares

ENCODINGS = ("int8", "int4", "int4, head too")
RATE = 2e-4  # of what has zeros and so has more to learn
DENSE, TEACHER = "dense, trained on", "dense, the teacher"
LOSSES = "CE", "CE+SquareHead"
Named = tuple[str, str]  # a model and its encoding


@dataclass(frozen=True)
class Wanted:
    """A model that is to be trained: without zeros if `level` is 0."""

    loss: str
    level: float
    pattern: str
    seed: int

    @property
    def name(self) -> str:
        if not self.level:
            return DENSE
        where = "anywhere" if self.pattern == "unstructured" else self.pattern
        return f"{self.level:.0%} zeros, {where}, {self.loss}"


ORDER = [
    Wanted(*cell, seed)
    for seed in (0, 1)
    for cell in (
        ("CE", 0.75, "unstructured"),
        ("CE", 0.0, "unstructured"),
        ("CE", 0.75, "4:16"),
        ("CE+SquareHead", 0.75, "unstructured"),
        ("CE", 0.6, "unstructured"),
        ("CE+SquareHead", 0.6, "unstructured"),
    )
]


class Gsm8k(Experiment):
    """Rows of the teacher, of what is pruned, and of what is then trained; all asked the test alone."""

    def save(self) -> None:
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune", "tune")}
        about["task"]["options"].pop("directory", None)
        save(self.results / "gsm8k.json", {**about, "rate": RATE, "rows": self.rows}, compact=True)

    def carry_out(self, wanted: Wanted) -> None:
        """Prune, ask, train, and ask in both encodings."""
        if wanted.level:
            pattern = None if wanted.pattern == self.recipe.prune.pattern else wanted.pattern
            start = pruned(self.recipe, self.stages, self.teacher, wanted.level, wanted.seed, wanted.pattern)
            where = wanted.name.rpartition(", ")[0]
            if not any(row["model"] == f"{where}, one shot" and row.get("seed") == wanted.seed for row in self.rows):
                packed = self.packed(start, "int8")
                self.ask(packed, "test", kind="one-shot", model=f"{where}, one shot", encoding="int8", seed=wanted.seed)
            steps, rate = self.steps(wanted.loss), RATE
        else:
            steps, rate, pattern = self.steps("CE"), self.recipe.tune.learning_rate, None
        clipped = "SquareHead" not in wanted.loss  # whose gradient is so long that a clip undoes it
        stage = self.tune(Cell(wanted.loss, wanted.level, wanted.seed, rate, steps, pattern, clipped))
        for encoding in ENCODINGS:
            packed = self.packed(stage, encoding)
            about = {"kind": "tuned", "model": wanted.name, "encoding": encoding, "seed": wanted.seed}
            about |= {"level": wanted.level, "pattern": wanted.pattern, "loss": wanted.loss}
            self.ask(packed, "test", **about, steps=steps, rate=rate, file=packed.output.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory, where the Hub is out of reach")
    parser.add_argument("--data", help="a directory with train.jsonl and test.jsonl, where the Hub is out of reach")
    parser.add_argument("--cells", type=int, default=len(ORDER), help="how many of the models to train")
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    options = parser.parse_args()
    experiment = Gsm8k(
        argparse.Namespace(design="gsm8k", results=RESULTS, **vars(options)),
        recipe_of(DESIGNS["gsm8k"], options.model, options.data),
    )
    for encoding in ENCODINGS:
        packed = experiment.packed(experiment.teacher, encoding)
        about = {"kind": "teacher", "model": TEACHER, "encoding": encoding}
        experiment.ask(packed, "test", **about, file=packed.output.name)
    for wanted in ORDER[: options.cells]:
        experiment.carry_out(wanted)
    print(table({"rows": experiment.rows}))


def table(result: dict[str, Any]) -> str:
    """Right answers of every file over its seeds, and the difference to dense int8 trained for as long, in points."""
    lines = [
        "| | right, by seed | mean [95%] | minus dense int8, trained on [95%] | McNemar's p, by seed |",
        "|---|--:|--:|--:|--:|",
    ]
    groups, control = grouped(result), (DENSE, "int8")
    for (model, encoding), rows in groups.items():
        mean, low, high = right_share(rows)
        against = tests = ""
        if (model, encoding) != control and (pairs := seed_pairs(rows, groups.get(control, ()))):
            against = points(points_above(pairs))
            tests = " / ".join(f"{mcnemar(*pair[:2]):.2g}" for pair in pairs)
        lines.append(
            f"| {encoding}, {model} | {shares(rows)} | {mean:.1%} [{low:.1%}, {high:.1%}] | {against} | {tests} |"
        )
    return "\n".join(lines)


def glance(result: dict[str, Any]) -> str:
    """Right answers of every model in 8 and 4 bits, the best first."""
    groups = grouped(result)
    models = dict.fromkeys(model for model, _ in groups)
    shares = {key: right_share(rows)[0] for key, rows in groups.items()}
    lines = ["| | right in int8 | in int4 |", "|---|--:|--:|"]
    for model in sorted(models, key=lambda model: -shares[model, "int8"]):
        cells = [f"{shares[model, bits]:.1%}" if (model, bits) in shares else "–" for bits in ENCODINGS[:2]]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success of what has run, and whether it came out."""
    groups = grouped(result)
    lines = ["| announced as success | found | |", "|---|---|---|"]

    def add(claim: str, ours: str, theirs: str, met: Callable[[Sequence[float]], bool | None]) -> None:
        if pairs := seed_pairs(*(groups.get((model, "int8"), ()) for model in (ours, theirs))):
            found, seeds = points_above(pairs), f"{len(pairs)} seed{'s' * (len(pairs) > 1)}"
            lines.append(f"| {claim} | {points(found)} points, {seeds} | {told(met(found))} |")

    plain, both = (Wanted(loss, 0.75, "unstructured", 0).name for loss in LOSSES)
    add(f"{both}: 2 points ahead of CE, clear of zero", both, plain, lambda found: found[0] >= 2 and found[1] > 0)
    for level, most in ((0.75, 5), (0.6, 2)):
        for loss in LOSSES:
            name = Wanted(loss, level, "unstructured", 0).name
            claim = f"{name}: at most {most} points below dense, trained on"
            add(claim, name, DENSE, partial(at_most_below, most))
    claim = "the dense teacher has converged: training on brings at most a point"
    add(claim, TEACHER, DENSE, partial(at_most_below, 1))
    return "\n".join(lines)


def grouped(result: dict[str, Any]) -> dict[Named, list[dict[str, Any]]]:
    """The rows of all seeds of each model in each encoding."""
    groups: dict[Named, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["model"], row["encoding"]].append(row)
    return groups


def difference(groups: dict[Named, list[dict[str, Any]]], ours: Named, theirs: Named) -> tuple[float, float, float]:
    """Points of one file above another, with the 95% interval, over the seeds that both have."""
    return points_above(seed_pairs(groups[ours], groups[theirs]))


if __name__ == "__main__":
    main()
