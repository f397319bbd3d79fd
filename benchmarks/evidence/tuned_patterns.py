"""What patterns of 75% zeros keep after SquareHead, its gradient not clipped, three seeds.

    python -m benchmarks.evidence.tuned_patterns               # two hours of two cores; resumes
    python -m benchmarks.evidence.tuned_patterns --finished    # trains nothing, reports what is there

On the teacher, task and training of `benchmarks.evidence.feature_loss`, in whose output it works: 4:16 is made there.
As docs/experiments.md announces: every pattern is asked the test once, in int8. Leaves tuned_patterns.json in
results/.
"""

from typing import Any

from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.feature_loss import NOT_CLIPPED, FeatureLoss, arguments, paired, tested
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares

FREE = "unstructured"
PATTERNS = ("4:16", FREE, "adaptive", "16:64", "2:8")  # in the order in which they are made
MOST = 2.0  # points that 4:16 may lose to zeros anywhere


class TunedPatterns(FeatureLoss):
    """The same training in several patterns."""

    name = "tuned_patterns"


def main() -> None:
    experiment = TunedPatterns(arguments(__doc__).parse_args())
    for pattern in PATTERNS:
        for seed in SEEDS:
            experiment.ask(NOT_CLIPPED, seed, "test", pattern)
    print(table(experiment.save()))


def table(result: dict[str, Any]) -> str:
    """Right answers by pattern, and the difference to zeros anywhere over the seeds that both have."""
    groups = tested(result, by="pattern")
    lines = [
        "| pattern | right of the test, by seed | mean [95%] | minus zeros anywhere [95%] | |",
        "|---|--:|--:|--:|---|",
    ]
    for pattern, rows in groups.items():
        mean, low, high = right_share(rows)
        cells = [pattern, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", "", ""]
        if pattern != FREE and FREE in groups:
            found = paired(groups, pattern, FREE)
            cells[3] = points(found)
            cells[4] = told(at_most_below(MOST, found)) if pattern == PATTERNS[0] else ""
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
