"""Cross-entropy alone beside cross-entropy and SquareHead where training never shows the test's numbers.

    python -m benchmarks.evidence.new_losses               # an hour of two cores a seed; resumes
    python -m benchmarks.evidence.new_losses --seeds 0     # of what is fine-tuned
    python -m benchmarks.evidence.new_losses --finished    # trains nothing, reports what is there

SmolLM2-135M with 75% zeros anywhere, from new_numbers.py's teacher and masks, as docs/experiments.md announces; the
test is asked once for each finished file. Leaves new_losses.json in results/.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS
from benchmarks.evidence.cells import Cell
from benchmarks.evidence.designs import DESIGNS, SEEDS
from benchmarks.evidence.new_numbers import LEVEL, RATE, NewNumbers
from benchmarks.evidence.report import told
from benchmarks.evidence.statistics import points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, shares

STEPS = 249  # of cross-entropy
SAME_TIME = round(STEPS / DESIGNS["short"].steps["CE"])  # with SquareHead, which asks the teacher
CELLS = (("CE", STEPS), ("CE+SquareHead", SAME_TIME), ("CE+SquareHead", STEPS))

Named = tuple[str, int, str]  # loss, steps and encoding of a model
CE: Named = ("CE", STEPS, "int8")


class NewLosses(NewNumbers):
    """Rows of what is trained on each loss."""

    result = "new_losses"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    options = parser.parse_args()
    experiment = NewLosses(argparse.Namespace(design="new-numbers", results=RESULTS, **vars(options)))
    for seed in options.seeds:
        for loss, steps in CELLS:
            cell = Cell(loss, LEVEL, seed, RATE, steps)
            experiment.tuned_and_asked(cell, experiment.recipe.prune.pattern, loss=loss, steps=steps)
    experiment.save()
    result = {"rows": experiment.rows}
    print(table(result), verdicts(result), sep="\n\n")


def table(result: dict[str, Any]) -> str:
    """Right answers of every loss over its seeds, and the difference to cross-entropy in int8, in points."""
    lines = [
        "| loss | steps | | right, by seed | mean [95%] | minus CE in int8 [95%] | answers' perplexity |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    for model, rows in _grouped(result).items():
        mean, low, high = right_share(rows)
        perplexity = np.mean([row["answer_perplexity"] for row in rows])
        against = "" if model == CE else points(difference(result, model))
        loss, steps, encoding = model
        right = f"{shares(rows)} | {mean:.1%} [{low:.1%}, {high:.1%}]"
        lines.append(f"| {loss} | {steps} | {encoding} | {right} | {against} | {perplexity:.3f} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success, and what came out."""
    lines = ["| announced as success | found | |", "|---|---|---|"]
    for claim, steps in (("in the same time", SAME_TIME), ("beside it: in as many steps", STEPS)):
        if found := difference(result, ("CE+SquareHead", steps, "int8")):
            met = told(found[0] >= 2 and found[1] > 0) if steps == SAME_TIME else ""
            lines.append(
                f"| SquareHead ahead of CE by 2 points, clear of zero, {claim} | {points(found)} points | {met} |"
            )
    return "\n".join(lines)


def difference(result: dict[str, Any], model: Named) -> tuple[float, float, float] | None:
    """Points above cross-entropy in int8, with the 95% interval, over the seeds that both have; None without any."""
    groups = _grouped(result)
    pairs = seed_pairs(groups.get(model, ()), groups.get(CE, ()))
    return points_above(pairs) if pairs else None


def _grouped(result: dict[str, Any]) -> dict[Named, list[dict[str, Any]]]:
    groups: dict[Named, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["loss"], row["steps"], row["encoding"]].append(row)
    return groups


if __name__ == "__main__":
    main()
