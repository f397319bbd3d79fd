"""What each pattern of zeros costs at 75%, in one shot and after the short experiment's fine-tuning.

    python -m benchmarks.evidence.patterns                     # an hour and a half of one core after `evidence short`
    python -m benchmarks.evidence.patterns --tuned 2:8         # fine-tunes that one alone
    python -m benchmarks.evidence.patterns --name patterns_longer --one-shot --times 3 --seeds 0 1 2 --tuned 4:16

On the short experiment's teacher, data and loss (cross-entropy, 83 steps or so many times them), asked the validation
questions alone, in int8: a pattern is a choice. As docs/experiments.md announces. Leaves patterns.json, or by another
`--name`, in results/.
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
from benchmarks.evidence.statistics import mcnemar, points_above, right_share, seed_pairs

PATTERNS = ("unstructured", "16:64", "adaptive", "4:16", "2:8", "1:4")  # of 75% zeros, the freest first
LEVEL = 0.75
LOSS, RATE = "CE", 4e-4  # what the short experiment chose


class Patterns(Experiment):
    """The short experiment's teacher and questions, with rows of its own."""

    name = "patterns"

    def save(self) -> None:
        save(self.results / f"{self.name}.json", {"level": LEVEL, "loss": LOSS, "rows": self.rows}, compact=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", nargs="*", choices=PATTERNS, default=["4:16", "unstructured", "adaptive", "2:8"])
    parser.add_argument("--one-shot", nargs="*", choices=("alps", "sparsegpt"), default=["alps", "sparsegpt"])
    parser.add_argument("--times", type=int, default=1, help="the short experiment's steps")
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=[0], help="of what is fine-tuned")
    parser.add_argument("--name", default="patterns", help="of the results")
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    options = parser.parse_args()
    experiment = Patterns(argparse.Namespace(design="short", output=options.output, results=RESULTS, finished=False))
    experiment.name = options.name
    experiment.ask(experiment.teacher, "validation", kind="teacher")

    def one_shot(method: str) -> None:
        for pattern in PATTERNS:
            start = pruned(experiment.recipe, experiment.stages, experiment.teacher, LEVEL, SEEDS[0], pattern, method)
            experiment.ask(experiment.asked(start), "validation", kind="one-shot", method=method, pattern=pattern)

    first, *rest = options.one_shot or [None]
    if first:
        one_shot(first)
    own = experiment.recipe.prune.pattern  # its cell has no pattern in its name
    for seed in options.seeds:
        for pattern in options.tuned:
            steps = experiment.steps(LOSS, options.times)
            cell = Cell(LOSS, LEVEL, seed, RATE, steps, None if pattern == own else pattern)
            about = {"kind": "tuned", "method": "alps", "pattern": pattern, "seed": seed, "steps": steps}
            experiment.ask(experiment.asked(experiment.tune(cell)), "validation", **about)
    for method in rest:
        one_shot(method)
    print(table({"rows": experiment.rows}))


def table(result: dict[str, Any]) -> str:
    """Right answers of every pattern, over its seeds, and the difference to zeros anywhere, paired by question."""
    lines = [
        "| pattern | made by | right [95%] | minus unstructured, points [95%] | McNemar's p | answers' perplexity |",
        "|---|---|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[*_made(row), row.get("pattern")].append(row)
    for (*made, pattern), rows in groups.items():
        share, low, high = right_share(rows)
        pairs = seed_pairs(rows, groups.get((*made, PATTERNS[0]), ()))
        against = p = ""
        if pattern not in (None, PATTERNS[0]) and pairs:
            mean, least, most = points_above(pairs)
            against = f"{mean:+.1f} [{least:+.1f}, {most:+.1f}]"
            p = " / ".join(f"{mcnemar(*pair[:2]):.2g}" for pair in pairs)
        shares = " / ".join(f"{row['right'] / row['samples']:.1%}" for row in rows)
        each = f" ({shares})" if len(rows) > 1 else ""
        lines.append(
            f"| {pattern or 'dense teacher'} | {_told(*made)} | {share:.1%}{each} [{low:.1%}, {high:.1%}] | "
            f"{against} | {p} | {np.mean([row['answer_perplexity'] for row in rows]):.3f} |"
        )
    return "\n".join(lines)


def _made(row: dict[str, Any]) -> tuple[Any, ...]:
    """In what rows are alike that differ in nothing but pattern and seed."""
    return row["kind"], row.get("method"), row.get("steps")


def _told(kind: str, method: str | None, steps: int | None) -> str:
    if kind == "tuned":
        return f"{method}, then fine-tuned" + (f" for {steps} steps" if steps else "")
    return f"{method}, one shot" if kind == "one-shot" else ""


if __name__ == "__main__":
    main()
