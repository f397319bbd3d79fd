"""What each pattern of zeros costs at 75%, in one shot and after the short experiment's fine-tuning.

    python -m benchmarks.evidence.patterns                     # an hour and a half of one core after `evidence short`
    python -m benchmarks.evidence.patterns --tuned 2:8         # fine-tunes that one alone

On the short experiment's teacher, data and loss (cross-entropy, 83 steps, the first seed), asked the validation
questions alone, in int8: a pattern is a choice. As docs/experiments.md announces. Leaves patterns.json in results/.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.__main__ import Experiment
from benchmarks.evidence.cells import Cell, pruned
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.statistics import mcnemar, paired_bootstrap, unpacked
from cutwork.measure.interval import wilson

PATTERNS = ("unstructured", "16:64", "adaptive", "4:16", "2:8", "1:4")  # of 75% zeros, the freest first
LEVEL = 0.75
LOSS, RATE = "CE", 4e-4  # what the short experiment chose


class Patterns(Experiment):
    """The short experiment's teacher and questions, with rows of its own."""

    def save(self) -> None:
        save(self.results / "patterns.json", {"level": LEVEL, "loss": LOSS, "rows": self.rows}, compact=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", nargs="*", choices=PATTERNS, default=["4:16", "unstructured", "adaptive", "2:8"])
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    options = parser.parse_args()
    experiment = Patterns(argparse.Namespace(design="short", output=options.output, results=RESULTS, finished=False))
    experiment.ask(experiment.teacher, "validation", kind="teacher")

    def one_shot(method: str) -> None:
        for pattern in PATTERNS:
            start = pruned(experiment.recipe, experiment.stages, experiment.teacher, LEVEL, SEEDS[0], pattern, method)
            experiment.ask(experiment.asked(start), "validation", kind="one-shot", method=method, pattern=pattern)

    one_shot("alps")
    own = experiment.recipe.prune.pattern  # its cell has no pattern in its name
    for pattern in options.tuned:
        cell = Cell(LOSS, LEVEL, SEEDS[0], RATE, experiment.steps(LOSS), None if pattern == own else pattern)
        experiment.ask(
            experiment.asked(experiment.tune(cell)), "validation", kind="tuned", method="alps", pattern=pattern
        )
    one_shot("sparsegpt")
    print(table({"rows": experiment.rows}))


def table(result: dict[str, Any]) -> str:
    """Right answers of every pattern, and the difference to zeros anywhere, paired by question."""
    lines = [
        "| pattern | made by | right [95%] | minus unstructured, points [95%] | McNemar's p | answers' perplexity |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        low, high = wilson(row["right"], row["samples"])
        name = row.get("pattern", "dense teacher")
        made = {"one-shot": f"{row.get('method')}, one shot", "tuned": f"{row.get('method')}, then fine-tuned"}
        against = p = ""
        free = next((r for r in result["rows"] if _alike(r, row) and r["pattern"] == PATTERNS[0]), None)
        if free and row is not free:
            ours, theirs = unpacked(row)[None], unpacked(free)[None]
            mean, least, most = (100 * x for x in paired_bootstrap(ours, theirs))
            against, p = f"{mean:+.1f} [{least:+.1f}, {most:+.1f}]", f"{mcnemar(ours[0], theirs[0]):.2g}"
        lines.append(
            f"| {name} | {made.get(row['kind'], '')} | {row['right'] / row['samples']:.1%} [{low:.1%}, {high:.1%}] | "
            f"{against} | {p} | {np.round(row['answer_perplexity'], 3):.3f} |"
        )
    return "\n".join(lines)


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows differ in nothing but the pattern."""
    return "pattern" in one and all(one.get(key) == other.get(key) for key in ("kind", "method"))


if __name__ == "__main__":
    main()
