"""What zeros cost a teacher that has learned more where each loss has the learning rate that suits it.

    python -m benchmarks.evidence.converged_rates               # hours of two cores; resumes
    python -m benchmarks.evidence.converged_rates --finished    # trains nothing, reports what is there

On the teacher, levels and steps of `benchmarks.evidence.converged`, in whose output it works, as docs/experiments.md
announces: with the first seed and 75% of zeros, rates are lowered while that helps on the validation questions; then
each loss at its best one, at both levels and without zeros, three seeds, and what is pruned and not trained, are asked
the test, once. Its questions are new: all of one template, their numbers in no training sample and in no question of
the former test. Leaves converged_rates.json in results/.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.converged import KINDS, LENGTH, Converged, above, grouped, judged, named
from benchmarks.evidence.data import FRESH_VALIDATION, fresh_splits
from benchmarks.evidence.designs import DENSE, SEEDS
from benchmarks.evidence.feature_loss import BOTH, CE, NOT_CLIPPED, RATE, Phase, arguments
from benchmarks.evidence.levels import TEACHER
from benchmarks.evidence.own_rates import climb
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares
from cutwork.recipe import Losses

RATES = tuple(RATE / 4.0**power for power in (2, 1, 0))
UNTRAINED = "not trained"
LOSSES = {CE: Phase(Losses(ce=1.0), share=LENGTH), NOT_CLIPPED: Phase(BOTH, share=LENGTH, clip=0.0)}


def variant(loss: str, rate: float) -> str:
    """The name of a loss at a rate; at that of `converged` its own, whose models are there."""
    return loss if rate == RATE else f"{loss}, {rate:g}"


PARTS = {variant(loss, rate): (loss, rate) for loss in LOSSES for rate in RATES}


class ConvergedRates(Converged):
    """Two losses at several learning rates, and no training at all."""

    name = "converged_rates"
    variants: ClassVar = {
        **{name: (replace(LOSSES[loss], rate=rate),) for name, (loss, rate) in PARTS.items()},
        UNTRAINED: (),
    }

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.splits = fresh_splits(self.recipe)

    def right(self, loss: str, rate: float) -> int | None:
        """Right answers on validation, at the first level and of the first seed; None if that may not be made."""
        row = self.ask(variant(loss, rate), SEEDS[0], "validation", KINDS[0])
        return None if row is None else int(row["right"])

    def clipped(self, variant: str, seed: int, pattern: str) -> dict[str, Any]:
        return super().clipped(variant, seed, pattern) if self.variants[variant] else {}


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(output=Path("out/converged"))
    experiment = ConvergedRates(parser.parse_args())
    experiment.ask(UNTRAINED, SEEDS[0], "validation", KINDS[0])
    best = {loss: climb(lambda rate, loss=loss: experiment.right(loss, rate), RATES, RATE) for loss in LOSSES}
    if None not in best.values():
        experiment.ask(CE, SEEDS[0], "test", TEACHER)
        for seed in SEEDS:
            for kind in KINDS:
                if kind != DENSE:
                    experiment.ask(UNTRAINED, seed, "test", kind)
                for loss, rate in best.items():
                    experiment.ask(variant(loss, rate), seed, "test", kind)
    result = experiment.save()
    print(choices(result), table(result), sep="\n\n")


def choices(result: dict[str, Any]) -> str:
    """Right answers on validation by loss and rate, and without training."""
    rows = {row["variant"]: row for row in result["rows"] if row["split"] == "validation"}
    lines = [
        f"| loss | {UNTRAINED} | {' | '.join(f'{rate:g}' for rate in RATES)} | of |",
        f"|---|--:|{'--:|' * (len(RATES) + 1)}",
    ]
    for loss in LOSSES:
        own = [rows.get(name) for name in (UNTRAINED, *(variant(loss, rate) for rate in RATES))]
        said = [f"{row['right'] / row['samples']:.1%}" if row else "–" for row in own]
        lines.append(f"| {loss} | {' | '.join(said)} | {FRESH_VALIDATION} |")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The test by kind and loss, the differences to the teacher, to dense trained alike and to cross-entropy."""
    groups = tested(result)
    lines = [
        "| zeros | loss | rate | right of the test, by seed | mean [95%] | minus the teacher [95%] "
        "| minus dense, trained alike [95%] | minus cross-entropy [95%] |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (kind, loss), rows in groups.items():
        mean, low, high = right_share(rows)
        rate = f"{PARTS[rows[0]['variant']][1]:g}" if loss in LOSSES else ""
        of_teacher = kind == TEACHER
        against = [
            above(rows, groups.get(other, ())) if wanted else None
            for other, wanted in (
                ((TEACHER, ""), not of_teacher),
                ((DENSE, loss), kind != DENSE),
                ((kind, CE), loss not in ("", CE, UNTRAINED)),
            )
        ]
        about = ["the teacher", "", ""] if of_teacher else [named(kind), loss, rate]
        cells = [*about, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]"]
        lines.append(f"| {' | '.join([*cells, *(points(found) for found in against)])} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success: met, missed, or not told by so many seeds."""
    return judged(tested(result), lambda _: (TEACHER, ""), "the teacher", (TEACHER, ""))


def tested(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The test's rows of all seeds by kind and loss, whatever its rate; the teacher's has none."""
    asked = [row for row in result["rows"] if row["split"] == "test"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (kind, name), rows in grouped({"rows": asked}).items():
        groups[kind, "" if kind == TEACHER else PARTS.get(name, (name, 0.0))[0]] = rows
    return groups


if __name__ == "__main__":
    main()
