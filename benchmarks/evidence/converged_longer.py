"""Whether zeros cost less where what has them is trained for as long as its teacher was.

    python -m benchmarks.evidence.converged_longer               # hours of two cores; resumes
    python -m benchmarks.evidence.converged_longer --finished    # trains nothing, reports what is there

The data of `benchmarks.evidence.converged` but for some samples, and a teacher of its own. 4 of 16, 8 of 16 and the
dense model itself are trained on for 600 steps of 16, six times the samples of there, by cross-entropy and KL
divergence from the teacher, 4 of 16 by cross-entropy alone, too. As docs/experiments.md announces: every file, in 8 and
4 bits, is asked the fresh questions once. Leaves converged_longer.json in results/.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.converged import above
from benchmarks.evidence.converged_files import INT4_HEAD, INT8, ConvergedFiles, files, table
from benchmarks.evidence.designs import DENSE, DESIGNS, SEEDS
from benchmarks.evidence.feature_loss import CE, STEPS, Phase, arguments
from benchmarks.evidence.levels import TEACHER
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.wording import points, seeds
from cutwork.recipe import Losses

KINDS = ("75% 4:16", DENSE, f"75% 4:16, {CE}", "50% 8:16")  # in the order they are made
RATE = DESIGNS["converged-longer"].rates[0]
LENGTH = 600  # steps; as many, of as many samples, as the teacher has
WITH_KL, ALONE = "CE+KL, longer", "CE, longer"
LOST = (  # points at most that a kind loses to another in an encoding
    (KINDS[0], TEACHER, INT8, 5.0),
    (KINDS[0], TEACHER, INT4_HEAD, 1.0),
    (KINDS[0], DENSE, INT8, 1.0),
    (KINDS[0], DENSE, INT4_HEAD, 1.0),
)
_CALLED = {TEACHER: "the teacher", DENSE: "dense, trained on as long"}


class ConvergedLonger(ConvergedFiles):
    """Models of one loss and six times the samples."""

    name = "converged_longer"
    recipe_file = Path("benchmarks/compress/converged.yaml")
    rate = RATE
    variants: ClassVar = {
        WITH_KL: (Phase(Losses(ce=1.0, kl=1.0), share=LENGTH / STEPS, rate=RATE),),
        ALONE: (Phase(Losses(ce=1.0), share=LENGTH / STEPS, rate=RATE),),
    }
    trained: ClassVar[str] = WITH_KL
    losses: ClassVar = {CE: ALONE}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=[SEEDS[0]])
    parser.set_defaults(output=Path("out/converged-longer"))
    options = parser.parse_args()
    experiment = ConvergedLonger(options)
    experiment.ask_all(KINDS, options.seeds)
    print(table(experiment.save()))


def verdicts(result: dict[str, Any], lost: Sequence[tuple[str, str, str, float]] = LOST) -> str:
    """What was announced as success: met, missed, or not told by so many seeds."""
    groups = files(result)
    lines = ["| announced as success | found | |", "|---|---|---|"]
    for kind, other, encoding, most in lost:
        rows = groups[kind, encoding]
        found = above(rows, groups[other, encoding])
        if found:
            called, beside = _CALLED.get(kind, kind), _CALLED.get(other, other)
            wanted = f"{called} ({encoding}) at most {most:g} below {beside} ({encoding}), points"
            lines.append(f"| {wanted} | {points(found)}, {seeds(len(rows))} | {told(at_most_below(most, found))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
