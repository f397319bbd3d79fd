"""60% and 75% of zeros by cross-entropy and with SquareHead, where the dense teacher has learned what it can.

    python -m benchmarks.evidence.converged               # hours of two cores; resumes
    python -m benchmarks.evidence.converged --finished    # trains nothing, reports what is there

The losses of `benchmarks.evidence.feature_loss`, twice its steps, SquareHead's gradient not clipped, on numbers that
training never shows. The dense model is trained on alike with each loss, from itself. As docs/experiments.md
announces: every file is asked the test once, in int8. Leaves converged.json in results/.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.designs import DENSE, SEEDS
from benchmarks.evidence.feature_loss import BOTH, CE, NOT_CLIPPED, Phase, arguments
from benchmarks.evidence.levels import FREE, TEACHER, Levels
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, seeds, shares
from cutwork.recipe import Losses

LENGTH = 2.0  # times the steps of `feature_loss`
KINDS = (f"75% {FREE}", f"60% {FREE}", DENSE)
LOST = {KINDS[0]: 5.0, KINDS[1]: 2.0}  # points at most, to dense trained alike
GAIN = 2.0  # points of SquareHead above cross-entropy, at the first
Rows = Sequence[dict[str, Any]]
Groups = Mapping[tuple[str, str], Rows]  # by kind and loss


class Converged(Levels):
    """Two levels and none, two losses."""

    name = "converged"
    recipe_file = Path("benchmarks/evidence/converged.yaml")
    variants: ClassVar = {
        CE: (Phase(Losses(ce=1.0), share=LENGTH),),
        NOT_CLIPPED: (Phase(BOTH, share=LENGTH, clip=0.0),),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(output=Path("out/converged"))
    experiment = Converged(parser.parse_args())
    experiment.ask(CE, SEEDS[0], "test", TEACHER)
    for seed in SEEDS:
        for kind in KINDS:
            for loss in experiment.variants:
                experiment.ask(loss, seed, "test", kind)
    print(table(experiment.save()))


def table(result: dict[str, Any]) -> str:
    """Right answers by kind and loss, the differences to the teacher, to dense trained alike and to cross-entropy, over
    the seeds."""
    groups = grouped(result)
    lines = [
        "| zeros | loss | right of the test, by seed | mean [95%] | minus the teacher [95%] "
        "| minus dense, trained alike [95%] | minus cross-entropy [95%] |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    teacher = groups.get((TEACHER, CE), ())
    for (kind, loss), rows in groups.items():
        mean, low, high = right_share(rows)
        lost = "" if kind == TEACHER else points(above(rows, teacher))
        alike = "" if kind == DENSE else points(above(rows, groups.get((DENSE, loss), ())))
        plain = "" if loss == CE else points(above(rows, groups.get((kind, CE), ())))
        cells = [named(kind), "" if kind == TEACHER else loss, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]"]
        lines.append(f"| {' | '.join([*cells, lost, alike, plain])} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success: met, missed, or not told by so many seeds."""
    return judged(grouped(result), lambda loss: (DENSE, loss), "dense, trained alike", (TEACHER, CE))


def judged(groups: Groups, control: Callable[[str], tuple[str, str]], named_so: str, teacher: tuple[str, str]) -> str:
    """The announced claims by kind and loss; `control`, named so: what SquareHead's levels are held against."""
    lines = ["| announced as success | found | |", "|---|---|---|"]

    def judge(claim: str, ours: tuple[str, str], theirs: tuple[str, str], most: float | None) -> None:
        rows = groups.get(ours, ()), groups.get(theirs, ())
        if found := above(*rows):
            met = found[0] >= GAIN and found[1] > 0 if most is None else at_most_below(most, found)
            said = f"{points(found)} points, {seeds(len(seed_pairs(*rows)))}"
            lines.append(f"| {claim} | {said} | {told(met)} |")

    first = KINDS[0]
    claim = f"{named(first)}, SquareHead {GAIN:g} points ahead of cross-entropy, clear of zero"
    judge(claim, (first, NOT_CLIPPED), (first, CE), None)
    for kind, most in LOST.items():
        claim = f"{named(kind)}, SquareHead at most {most:g} points below {named_so}"
        judge(claim, (kind, NOT_CLIPPED), control(NOT_CLIPPED), most)
    claim = "the dense teacher has converged: training on by cross-entropy brings at most a point"
    judge(claim, teacher, (DENSE, CE), 1.0)
    return "\n".join(lines)


def grouped(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of all seeds by kind and loss; the teacher's has none, so that it is held against each."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in result["rows"]:
        about = {key: value for key, value in row.items() if row["pattern"] != TEACHER or key != "seed"}
        groups.setdefault((row["pattern"], row["variant"]), []).append(about)
    return groups


def above(ours: Rows, theirs: Rows) -> tuple[float, float, float] | None:
    """Points above another, over the seeds of both; None without any."""
    pairs = seed_pairs(ours, theirs)
    return points_above(pairs) if pairs else None


def named(kind: str) -> str:
    """A kind as tables have it."""
    return "dense" if kind == DENSE else kind.replace(FREE, "anywhere")


if __name__ == "__main__":
    main()
