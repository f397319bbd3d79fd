"""Zeros on questions whose numbers training never showed: SmolLM2-135M with 75% zeros beside itself without, both
trained for as long.

    python -m benchmarks.evidence.new_numbers               # two and a half hours of two cores; resumes
    python -m benchmarks.evidence.new_numbers --seeds 0 1   # of what is fine-tuned
    python -m benchmarks.evidence.new_numbers --finished    # trains nothing, reports what is there

In the longer experiment three of four of the test's questions had numbers that occur in training under other names;
here none has, in that order (parts.py tells of steps). As docs/experiments.md announces; the test is asked once
for each finished model, all replies are kept in the output directory. Leaves new_numbers.json in results/.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.cells import Cell, pruned
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.experiment import Experiment
from benchmarks.evidence.report import at_most_below, paid, told
from benchmarks.evidence.seen_numbers import seen_numbers
from benchmarks.evidence.statistics import bootstrap_p, holm, points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, seeds, shares

LEVEL, LOSS, RATE = 0.75, "CE", 4e-4  # what the short experiment chose
PATTERNS = ("unstructured", "4:16")
DENSE = "dense"

Named = tuple[str, str | None, str]  # kind, pattern and encoding of a model
TEACHER: Named = ("teacher", None, "int8")
CONTROL: Named = ("tuned", DENSE, "int8")
INT4: Named = ("tuned", DENSE, "int4")
ANYWHERE: Named = ("tuned", "unstructured", "int8")


class NewNumbers(Experiment):
    """Rows of the teacher, of what is pruned, and of what is then trained; all asked the test alone."""

    result = "new_numbers"

    def save(self) -> None:
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune", "tune")}
        seen = int(seen_numbers(self.splits["test"]).sum())
        save(self.results / f"{self.result}.json", {**about, "seen": seen, "rows": self.rows}, compact=True)

    def trained_on(self, pattern: str, seed: int) -> None:
        """A model with zeros in a pattern, or the dense one, trained on and asked in both encodings."""
        steps, own = self.recipe.tune.max_steps, self.recipe.prune.pattern
        level = 0.0 if pattern == DENSE else LEVEL
        self.tuned_and_asked(
            Cell(LOSS, level, seed, RATE, steps, None if pattern in (own, DENSE) else pattern), pattern
        )

    def tuned_and_asked(self, cell: Cell, pattern: str, **more: Any) -> None:
        """A cell in both encodings; more: what else its rows say."""
        stage = self.tune(cell)
        for encoding in ("int8", "int4"):
            packed = self.packed(stage, encoding)
            about = {"kind": "tuned", "pattern": pattern, "encoding": encoding, "seed": cell.seed, **more}
            self.ask(packed, "test", **about, level=cell.level, file=packed.output.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    options = parser.parse_args()
    experiment = NewNumbers(argparse.Namespace(design="new-numbers", results=RESULTS, **vars(options)))
    for encoding in ("int8", "int4"):
        experiment.ask(experiment.packed(experiment.teacher, encoding), "test", kind="teacher", encoding=encoding)
    for seed in options.seeds:
        for pattern in (*PATTERNS, DENSE):
            if pattern != DENSE:
                start = pruned(experiment.recipe, experiment.stages, experiment.teacher, LEVEL, seed, pattern)
                about = {"kind": "one-shot", "pattern": pattern, "encoding": "int8", "seed": seed}
                experiment.ask(experiment.packed(start, "int8"), "test", **about)
            experiment.trained_on(pattern, seed)
    print(table({"rows": experiment.rows}))


def table(result: dict[str, Any]) -> str:
    """Right answers of every model over its seeds, and the difference to dense int8 trained for as long, in points."""
    lines = [
        "| | right, by seed | mean [95%] | minus dense int8, trained on [95%] | answers' perplexity |",
        "|---|--:|--:|--:|--:|",
    ]
    for model, rows in grouped(result).items():
        mean, low, high = right_share(rows)
        against = "" if model == CONTROL else points(difference(result, model, CONTROL))
        lines.append(
            f"| {_told(*model)} | {shares(rows)} | {mean:.1%} [{low:.1%}, {high:.1%}] | {against} | "
            f"{np.mean([row['answer_perplexity'] for row in rows]):.3f} |"
        )
    return "\n".join(lines)


def verdicts(result: dict[str, Any], timed: dict[str, Any] | None = None) -> str:
    """What was announced as success, and what came out, if it is timed also how much faster that is than 4 bits."""
    four = ("tuned", "4:16", "int8")
    announced = [
        ("at most 2 points below dense int8 trained for as long", ANYWHERE, CONTROL, 2),
        ("4:16 at most 2 points below zeros anywhere", four, ANYWHERE, 2),
        ("beside it: zeros anywhere in int8, minus dense int4 trained for as long", ANYWHERE, INT4, None),
        ("the dense teacher has converged: training on brings at most a point", TEACHER, CONTROL, 1),
    ]
    lines = ["| announced as success | found | |", "|---|---|---|"]
    for name, ours, theirs, most in announced:
        minus = difference(result, ours, theirs)
        if minus:
            met = "" if most is None else told(at_most_below(most, minus))
            lines.append(f"| {name} | {points(minus)} points, {seeds(len(_pairs(result, ours, theirs)))} | {met} |")
    if timed:
        lines += paid(timed)
    return "\n".join(lines)


def secondary(result: dict[str, Any]) -> str:
    """The comparisons that were announced beside the first, corrected together by Holm."""
    groups = grouped(result)
    comparisons = [(("tuned", "4:16", "int8"), ANYWHERE), (ANYWHERE, INT4)]
    comparisons += [(model, TEACHER) for model in groups if model[0] == "tuned"]
    pairs = {(ours, theirs): _pairs(result, ours, theirs) for ours, theirs in comparisons}
    stacked = {
        key: tuple(map(np.stack, zip(*(pair[:2] for pair in found), strict=True)))
        for key, found in pairs.items()
        if found
    }
    corrected = holm({str(key): bootstrap_p(*both) for key, both in stacked.items()})
    lines = ["| | minus | points [95%] | p, corrected by Holm |", "|---|---|--:|--:|"]
    for ours, theirs in stacked:
        found = points(difference(result, ours, theirs))
        lines.append(f"| {_told(*ours)} | {_told(*theirs)} | {found} | {corrected[str((ours, theirs))]:.2g} |")
    return "\n".join(lines)


def grouped(result: dict[str, Any]) -> dict[Named, list[dict[str, Any]]]:
    """The rows of all seeds of each model."""
    groups: dict[Named, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["kind"], row.get("pattern"), row["encoding"]].append(row)
    return groups


def difference(result: dict[str, Any], ours: Named, theirs: Named) -> tuple[float, float, float] | None:
    """Points of one model above another, with the 95% interval, over the seeds that both have; None without any."""
    pairs = _pairs(result, ours, theirs)
    return points_above(pairs) if pairs else None


def _pairs(result: dict[str, Any], ours: Named, theirs: Named) -> list[tuple[Any, Any]]:
    groups = grouped(result)
    return seed_pairs(groups.get(ours, ()), groups.get(theirs, ()))


def _told(kind: str, pattern: str | None, encoding: str) -> str:
    zeros = {None: "dense", DENSE: "dense", "unstructured": "75% zeros anywhere", "4:16": "75% zeros, 4:16"}[pattern]
    made = {"teacher": "the teacher", "one-shot": "one shot", "tuned": "trained on"}[kind]
    return f"{encoding}, {zeros}, {made}"


if __name__ == "__main__":
    main()
