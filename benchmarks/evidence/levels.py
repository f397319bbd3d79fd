"""What half of zeros costs in each pattern, and each level, after SquareHead, beside the dense model trained alike.

    python -m benchmarks.evidence.levels               # two hours of two cores, less where they have AMX; resumes
    python -m benchmarks.evidence.levels --finished    # trains nothing, reports what is there

The task and training of `benchmarks.evidence.feature_loss`, SquareHead's gradient not clipped, three seeds. The dense
model learns from itself in the same steps. As docs/experiments.md announces: every kind is asked the test once, in
int8. Leaves levels.json in results/.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.evidence.designs import DENSE, SEEDS
from benchmarks.evidence.feature_loss import NOT_CLIPPED, FeatureLoss, arguments, paired, tested
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares
from cutwork.recipe import PruneSettings, QuantizeSettings
from cutwork.run.stages import Source, Stage

TEACHER, FREE = "the teacher", "unstructured"
HALVES = tuple(f"50% {pattern}" for pattern in ("8:16", FREE, "adaptive", "32:64", "2:4"))
KINDS = (HALVES[0], DENSE, *HALVES[1:], *(f"{level}% {FREE}" for level in (60, 70, 80)))  # in the order they are made
MOST = 2.0  # points that may be lost: by half and 60% of zeros anywhere to dense, by 8:16 to zeros anywhere
WANTED = ((f"50% {FREE}", DENSE), (f"60% {FREE}", DENSE), (HALVES[0], f"50% {FREE}"))


class Levels(FeatureLoss):
    """The same training at several levels; a `pattern` here is a level with its pattern, or none."""

    name = "levels"

    def model(self, variant: str, seed: int, pattern: str) -> Stage:
        if pattern != TEACHER:
            return super().model(variant, seed, pattern)
        self.phases[variant, seed, pattern] = []
        if (variant, seed, pattern) not in self.models:
            rounded = self.stages.quantize("teacher-int8", self.teacher, QuantizeSettings(scheme="w8a8", method="rtn"))
            self.models[variant, seed, pattern] = self.stages.pack("packed/teacher", rounded, self.recipe.pack)
        return self.models[variant, seed, pattern]

    def clipped(self, variant: str, seed: int, pattern: str) -> dict[str, Any]:
        return {} if pattern == TEACHER else super().clipped(variant, seed, pattern)

    def masks(self, seed: int, pattern: str) -> Source:
        return self.teacher if pattern == DENSE else super().masks(seed, pattern)

    def pruning(self, seed: int, pattern: str) -> PruneSettings:
        level, _, name = pattern.partition("% ")
        return self.recipe.prune.model_copy(update={"sparsity": int(level) / 100, "seed": seed, "pattern": name})

    def _other(self, pattern: str) -> str:
        return pattern.replace("% ", "-").replace(":", "of") + "-"


def main() -> None:
    experiment = Levels(arguments(__doc__).parse_args())
    experiment.ask(NOT_CLIPPED, SEEDS[0], "test", TEACHER)
    for kind in KINDS:
        for seed in SEEDS:
            experiment.ask(NOT_CLIPPED, seed, "test", kind)
    print(table(experiment.save()))


def table(result: dict[str, Any]) -> str:
    """Right answers by kind, the differences to dense and to zeros anywhere of that level, over the seeds of both."""
    groups = tested(result, by="pattern")
    lines = [
        "| zeros | right of the test, by seed | mean [95%] | minus dense [95%] | minus zeros anywhere [95%] |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, rows in groups.items():
        mean, low, high = right_share(rows)
        level, _, pattern = kind.partition("% ")
        free = f"{level}% {FREE}"
        beside = [
            points(paired(groups, kind, other)) if wanted and other in groups else ""
            for other, wanted in ((DENSE, kind != DENSE), (free, pattern not in ("", FREE)))
        ]
        cells = [_named(kind), shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", *beside]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success: met, missed, or not told by three seeds."""
    groups = tested(result, by="pattern")
    lines = ["| announced as success | found | |", "|---|---|---|"]
    for kind, other in WANTED:
        if {kind, other} <= groups.keys():
            found = paired(groups, kind, other)
            said = f"{points(found)} points, {_seeds(groups[kind], groups[other])} seeds"
            wanted = f"{_named(kind)} at most {MOST:g} points below {_named(other)}"
            lines.append(f"| {wanted} | {said} | {told(at_most_below(MOST, found))} |")
    return "\n".join(lines)


def _seeds(*groups: Sequence[dict[str, Any]]) -> int:
    return len(set.intersection(*({row["seed"] for row in rows} for rows in groups)))


def _named(kind: str) -> str:
    return "dense, trained alike" if kind == DENSE else kind.replace(FREE, "anywhere")


if __name__ == "__main__":
    main()
