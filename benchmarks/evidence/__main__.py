"""SmolLM2-135M on GSM-Symbolic, as docs/experiments.md announces it, in one of three designs.

    python -m benchmarks.evidence short                 # two and a half hours on two cores
    python -m benchmarks.evidence longer                # its best loss for three times as long: three hours more
    python -m benchmarks.evidence announced             # days; interrupt it, run it again
    python -m benchmarks.evidence short --steps teacher gate        # so far and no further
    python -m benchmarks.evidence short --losses CE --output DIR    # a part, beside another process with its own DIR
    python -m benchmarks.evidence short --finished      # trains nothing, reports the cells that are there

Choices are made on the validation split. The test and the unseen templates are asked once for each finished cell; all
replies are kept in the output directory. Leaves evidence.json, evidence_short.json or evidence_longer.json, and its
.png, in results/.
"""

import argparse
from pathlib import Path

from benchmarks.common.results import RESULTS
from benchmarks.evidence.designs import LOSSES, PRIMARY, SEEDS
from benchmarks.evidence.experiment import Experiment
from benchmarks.evidence.report import table

STEPS = ("teacher", "gate", "rates", "core", "equal-time", "controls", "quantized")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("design", choices=("announced", "short", "longer"))
    parser.add_argument("--output", type=Path, help="default: the recipe's")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), help="default: the design's")
    parser.add_argument("--levels", nargs="+", type=float, help="default: the design's")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    options = parser.parse_args()

    experiment = Experiment(options)
    levels, seeds = options.levels or list(experiment.design.levels), options.seeds
    experiment.ask(experiment.teacher, "validation", kind="teacher")
    if "gate" in options.steps:
        experiment.gate()
    rates = {}
    if set(options.steps) - {"teacher", "gate"}:
        chosen = {loss: experiment.rate(loss) for loss in options.losses or experiment.design.losses}
        rates = {loss: rate for loss, rate in chosen.items() if rate is not None}
        if experiment.design.leading_only and rates:
            rates = {loss: rates[loss] for loss in [experiment.leading(rates)]}
    if "core" in options.steps:
        teacher = (
            experiment.teacher if experiment.design.asked == "float" else experiment.packed(experiment.teacher, "bf16")
        )
        experiment.ask(teacher, "test", "unseen", kind="teacher")
        experiment.core(rates, levels, seeds)
    if "equal-time" in options.steps and set(PRIMARY) <= rates.keys() and not experiment.design.steps:
        experiment.equal_time(rates, seeds)
    if "controls" in options.steps:
        again = {loss: rate for loss, rate in rates.items() if loss in PRIMARY}
        for seed in seeds:
            experiment.tuned("control", again, 0.0, seed)
    if "quantized" in options.steps:
        experiment.quantized(rates, levels, seeds[:1])
    print(table({"rows": experiment.rows}))


if __name__ == "__main__":
    main()
