"""Whether zeros cost less where they are made of the model that has been trained on.

    python -m benchmarks.evidence.converged_again               # an hour and a half of two cores; resumes
    python -m benchmarks.evidence.converged_again --finished    # trains nothing, reports what is there

The dense model that `benchmarks.evidence.converged_longer` has trained on is the teacher: 4 of 16 is pruned from it,
and that and the model itself are trained for 600 steps once more, as there and on the same data. As docs/experiments.md
announces: every file, in 8 and 4 bits, is asked the same fresh questions once. Leaves converged_again.json in results/.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.evidence import converged_longer
from benchmarks.evidence.converged_files import INT8, table
from benchmarks.evidence.converged_longer import KINDS, ConvergedLonger
from benchmarks.evidence.designs import DENSE, SEEDS
from benchmarks.evidence.feature_loss import arguments
from benchmarks.evidence.levels import TEACHER
from cutwork.run.stages import Source

LOST = (  # as converged_longer.py has them: whether the teacher has converged, and what zeros cost then
    (TEACHER, DENSE, INT8, 1.0),
    (KINDS[0], DENSE, INT8, 5.0),
)
_TRAINED_ON = Path("out/converged-longer/ce-kl-longer-dense-seed0-0")


class ConvergedAgain(ConvergedLonger):
    """The same models of another teacher, which is there."""

    name = "converged_again"

    def teacher_of(self, options: argparse.Namespace) -> Source:
        teacher: Path = options.teacher
        return teacher


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--teacher", type=Path, default=_TRAINED_ON, help="default: %(default)s")
    parser.set_defaults(output=Path("out/converged-again"))
    options = parser.parse_args()
    if not options.teacher.is_dir():
        parser.error(f"{options.teacher} is not there; make it by `python -m benchmarks.evidence.converged_longer`")
    experiment = ConvergedAgain(options)
    experiment.ask_all(KINDS[:2], SEEDS[:1])
    print(table(experiment.save()))


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success: met, missed, or not told by one seed."""
    return converged_longer.verdicts(result, LOST)


if __name__ == "__main__":
    main()
