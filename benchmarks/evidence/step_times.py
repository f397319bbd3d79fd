"""How many times as long a step with SquareHead takes, whose teacher runs as well, as one of cross-entropy alone.

    python -m benchmarks.evidence.step_times       # on a quiet machine, ten minutes; out/feature-loss has to be there

Both train the first seed's pruned model of `benchmarks.evidence.feature_loss` as that does, by turns and for a few
steps of the same samples, first for fewer and then for more, so that what is done once counts for neither. Leaves
step_times.json in results/.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.feature_loss import BOTH, RATE, RECIPE
from cutwork.recipe import Losses
from cutwork.recipe_file import load_recipe
from cutwork.tasks.load import load_task

LOSSES = {"CE": Losses(ce=1.0), "CE+SquareHead": BOTH}
FEWER, MORE = 4, 16  # steps; between them none is the first


def main() -> None:
    from cutwork.tune.tune import tune  # heavy, and `tables` needs none of it

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out/feature-loss"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    recipe, console = load_recipe(RECIPE), Console(stderr=True)
    task = load_task(recipe.task)
    rows: list[dict[str, Any]] = []
    for turn in range(options.rounds):
        for loss, losses in LOSSES.items():
            seconds = []
            for steps in (FEWER, MORE):
                changes = {"losses": losses, "max_steps": steps, "max_grad_norm": 0.0, "learning_rate": RATE}
                with tempfile.TemporaryDirectory() as work:
                    report = tune(
                        options.output / "pruned-seed0",
                        Path(work) / "tuned",
                        recipe.tune.model_copy(update=changes),
                        task.train,
                        teacher_dir=options.output / "teacher",
                        max_length=recipe.task.max_length,
                        console=Console(quiet=True),
                    )
                seconds.append(report["seconds"])
            rows.append({"loss": loss, "round": turn, "seconds": (seconds[1] - seconds[0]) / (MORE - FEWER)})
            console.print(f"{loss}: {rows[-1]['seconds']:.2f} s a step", highlight=False)
    save(options.results / "step_times.json", {"steps": [FEWER, MORE], "rows": rows})


def ratios(result: dict[str, Any]) -> list[float]:
    """Of each round: a step with SquareHead over one of cross-entropy."""
    seconds = {(row["loss"], row["round"]): row["seconds"] for row in result["rows"]}
    turns = sorted({turn for _, turn in seconds})
    return [seconds["CE+SquareHead", turn] / seconds["CE", turn] for turn in turns]


def table(result: dict[str, Any]) -> str:
    """Seconds of a step by loss, and their ratio by round."""
    lines = ["| loss | seconds of a step, by round | median |", "|---|--:|--:|"]
    for loss in LOSSES:
        own = [row["seconds"] for row in result["rows"] if row["loss"] == loss]
        lines.append(f"| {loss} | {' / '.join(f'{each:.2f}' for each in own)} | {median(own):.2f} |")
    found = ratios(result)
    lines.append(f"| ratio | {' / '.join(f'{each:.2f}' for each in found)} | {median(found):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
