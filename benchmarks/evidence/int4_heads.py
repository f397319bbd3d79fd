"""What an output head in int4 costs, rounded to the nearest or by GPTQ, with 75% zeros in the blocks and without.

    python -m benchmarks.evidence.int4_heads               # an hour and a half of two cores; resumes
    python -m benchmarks.evidence.int4_heads --finished    # trains nothing, reports what is there

SmolLM2-135M, the teacher, data and questions of `benchmarks.evidence.new_numbers`; 4 of 16 and the dense model, trained
on for half as long as there. As docs/experiments.md announces: every file is asked the test once;
`benchmarks.evidence.pareto int4-heads` times these files. Leaves int4_heads.json in results/.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS
from benchmarks.evidence import pareto
from benchmarks.evidence.cells import Cell
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.new_numbers import DENSE, LEVEL, LOSS, RATE, NewNumbers
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, shares
from cutwork.run.stages import Stage

PATTERNS = ("4:16", DENSE)
STEPS = 125
INT8, INT4, ROUNDED, GPTQ = FILES = ("int8", "int4", "int4, head too", "int4, head by GPTQ")
LEAST = 1.0  # points that the head may cost
FASTER = 1.4  # times as fast as the dense model stored alike

Named = tuple[str, str]  # pattern and encoding


class Int4Heads(NewNumbers):
    """Files of models that have been trained on, by how their heads are stored."""

    result = "int4_heads"

    def tuned(self, pattern: str, seed: int) -> Stage:
        """4 of 16 or the dense model, trained on."""
        level = 0.0 if pattern == DENSE else LEVEL
        return self.tune(Cell(LOSS, level, seed, RATE, STEPS, None if pattern == DENSE else pattern))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=[SEEDS[0]])
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--output", type=Path, default=Path("out/new-numbers"), help="default: %(default)s")
    options = parser.parse_args()
    experiment = Int4Heads(argparse.Namespace(design="int4-heads", results=RESULTS, **vars(options)))
    for seed in options.seeds:
        for pattern in PATTERNS:
            for encoding in FILES:
                file = experiment.packed(experiment.tuned(pattern, seed), encoding)
                level = 0.0 if pattern == DENSE else LEVEL
                about = {"kind": "file", "encoding": encoding, "level": level, "pattern": pattern, "seed": seed}
                experiment.ask(file, "test", **about, file=file.output.name)
    experiment.save()
    result = {"rows": experiment.rows}
    print(table(result), verdicts(result), sep="\n\n")


def table(result: dict[str, Any]) -> str:
    """Right answers of every file, minus the same model's with an int8 head, and how sure it is of the right ones."""
    lines = [
        "| zeros | file | right | mean [95%] | minus its int4 [95%] | answers' perplexity |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (pattern, encoding), rows in grouped(result).items():
        mean, low, high = right_share(rows)
        against = "" if encoding == INT4 else points(difference(result, encoding, INT4, pattern))
        zeros = "none" if pattern == DENSE else f"{rows[0]['level']:.0%}, {pattern}"
        perplexity = np.mean([row["answer_perplexity"] for row in rows])
        cells = [zeros, encoding, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", against, f"{perplexity:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any], timed: dict[str, Any] | None = None) -> str:
    """What was announced as success: met, missed, or not told; `timed`: what `pareto` measured of the files."""
    lines = ["| announced as success | found | |", "|---|---|---|"]
    for pattern in PATTERNS:
        cost, gain = (difference(result, GPTQ, other, pattern) for other in (INT4, ROUNDED))
        if cost and gain:
            met = told(at_most_below(LEAST, cost))
            lines.append(
                f"| {pattern}: a head by GPTQ at most {LEAST:g} point below one in int8 | {points(cost)} | {met} |"
            )
            ahead = told(True if gain[1] > 0 else False if gain[2] < 0 else None)
            lines.append(f"| {pattern}: ahead of a head that is rounded | {points(gain)} | {ahead} |")
    if timed:
        for encoding in (INT4, GPTQ):
            sparse, dense = (f"cutwork {encoding}{zeros}" for zeros in (f", {LEVEL:.0%} zeros (4:16)", ""))
            [(_, pairs, times)] = [each for each in pareto.sparse_beside(timed, dense) if each[0] == sparse]
            met = told(times >= FASTER) if encoding == GPTQ else ""
            claim = f"{encoding}: 4:16 decodes {FASTER:g} times as fast as dense, {points(points_above(pairs))} points"
            lines.append(f"| {claim} | {times:.2f} times | {met} |")
    return "\n".join(lines)


def difference(result: dict[str, Any], ours: str, theirs: str, pattern: str) -> tuple[float, float, float] | None:
    """Points of one encoding of a model above another, with the 95% interval; None without any."""
    groups = grouped(result)
    pairs = seed_pairs(groups.get((pattern, ours), ()), groups.get((pattern, theirs), ()))
    return points_above(pairs) if pairs else None


def grouped(result: dict[str, Any]) -> dict[Named, list[dict[str, Any]]]:
    """The rows of all seeds of each file."""
    groups: dict[Named, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["pattern"], row["encoding"]].append(row)
    return groups


if __name__ == "__main__":
    main()
