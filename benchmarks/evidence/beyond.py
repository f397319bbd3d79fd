"""Three methods beyond SquareHead at 75% zeros: masks found on the training loss, calibration on the teacher's own
answers, and distillation on the student's.

    python -m benchmarks.evidence.beyond                    # half an hour of two cores a seed; resumes
    python -m benchmarks.evidence.beyond --seeds 0          # of what is made
    python -m benchmarks.evidence.beyond --finished         # trains nothing, reports what is there

On the teacher, task and time of `benchmarks.evidence.feature_loss`, in whose output it works, as docs/experiments.md
announces: all are asked the validation questions, and none the test. Leaves beyond.json in results/.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.evidence.answers import answer
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.feature_loss import BOTH, NOT_CLIPPED, STEPS, VARIANTS, FeatureLoss, Phase, arguments, paired
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares
from cutwork.recipe import Losses, QuantizeSettings, TuneSettings
from cutwork.run.stages import Stage, Stages, discard, path_of
from cutwork.store.output import work_of
from cutwork.tasks.task import Task, final_number

OWN, GIVEN, ON_POLICY, SEARCHED = (
    "calibrated on the teacher's answers",
    "CE+SquareHead, then KL+SquareHead on the answers given",
    "CE+SquareHead, then KL+SquareHead on the student's answers",
    "masks found on the loss",
)
TEACHER_ONLY = Losses(ce=0.0, kl=1.0, squarehead=1.0)
ANSWERING = 5  # steps' time that the student's answers take
EVERY = 3  # of the training questions is answered by the student: more than are learned
HALVES = (Phase(BOTH, 0.5, clip=0.0), Phase(TEACHER_ONLY, 0.5 - ANSWERING / STEPS, clip=0.0))


class Beyond(FeatureLoss):
    """The same training, with other masks or other answers."""

    name = "beyond"
    variants: ClassVar[Mapping[str, tuple[Phase, ...]]] = {  # in the order in which they are made
        NOT_CLIPPED: VARIANTS[NOT_CLIPPED],
        OWN: VARIANTS[NOT_CLIPPED],
        GIVEN: HALVES,
        ON_POLICY: HALVES,
        SEARCHED: (Phase(TEACHER_ONLY, 0.6, clip=0.0), Phase(BOTH, 0.4, clip=0.0)),
    }

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.halves: dict[tuple[int, str], Stage] = {}

    def model(self, variant: str, seed: int, pattern: str) -> Stage:
        """The packed model of a method, made when stages are carried out; what it is made of may be made at once."""
        if variant == NOT_CLIPPED:
            return super().model(variant, seed, pattern)
        if (variant, seed, pattern) not in self.models:
            make = {OWN: self._own, GIVEN: self._given, ON_POLICY: self._on_policy, SEARCHED: self._searched}[variant]
            self.phases[variant, seed, pattern] = phases = make(seed, pattern)
            self.models[variant, seed, pattern] = self._packed(_name(variant, seed), phases[-1])
        return self.models[variant, seed, pattern]

    def _own(self, seed: int, pattern: str) -> list[Stage]:
        """Masks by ALPS on what the teacher itself answers."""
        packed = self.stages.pack("packed/teacher", self.teacher, self.recipe.pack)
        own = self._with_answers(packed, self.stages.task)
        pruned = self._on(own).prune(f"pruned-own-answers-seed{seed}", self.teacher, self.pruning(seed, pattern))
        return [self._tuned(self.stages, OWN, 0, seed, pruned)]

    def _given(self, seed: int, pattern: str) -> list[Stage]:
        """What the next one is held against."""
        first = self._half(seed, pattern)
        return [first, self._tuned(self.stages, GIVEN, 1, seed, first)]

    def _on_policy(self, seed: int, pattern: str) -> list[Stage]:
        """The second half of the training on what the student answers after the first, as its teacher would go on."""
        first = self._half(seed, pattern)
        some = replace(self.stages.task, train=self.stages.task.train[::EVERY])
        own = self._with_answers(self._packed(f"half-way-seed{seed}", first), some)
        return [first, self._tuned(self._on(own), ON_POLICY, 1, seed, first)]

    def _searched(self, seed: int, pattern: str) -> list[Stage]:
        """Dense weights that come close to the pattern while they learn, ALPS for what is left, and recovery."""
        from benchmarks.evidence.mask_search import MaskSearch  # these are heavy, and `tables` needs none of them
        from cutwork.prune.rates import pattern_of
        from cutwork.tune.tune import tune

        chosen, phase = self.pruning(seed, pattern), self.variants[SEARCHED][0]
        search = MaskSearch(pattern_of(pattern, chosen.sparsity), phase.steps).preparation()
        settings = self._settings(phase, seed).model_copy(update={"keep_zeros": False, "save_every": phase.steps})

        def make(output: Path) -> None:
            discard(work_of(output))  # what the search knows is in no checkpoint
            tune(
                path_of(self.teacher),
                output,
                settings,
                self.stages.task.train,
                teacher_dir=path_of(self.teacher),
                max_length=self.recipe.task.max_length,
                prepared=search,
                console=self.console,
            )

        key = [settings.as_key(), search.key]
        found = self.stages.add(f"{_name(SEARCHED, seed)}-0", "tune", make, key, self.teacher)
        pruned = self.stages.prune(f"pruned-found-seed{seed}", found, chosen)
        return [found, self._tuned(self.stages, SEARCHED, 1, seed, pruned)]

    def _half(self, seed: int, pattern: str) -> Stage:
        """The first half of the training, which two methods share."""
        if (seed, pattern) not in self.halves:
            self.halves[seed, pattern] = self._tuned(self.stages, GIVEN, 0, seed, self.masks(seed, pattern))
        return self.halves[seed, pattern]

    def _settings(self, phase: Phase, seed: int) -> TuneSettings:
        changes = {"losses": phase.losses, "max_steps": phase.steps, "max_grad_norm": phase.clip}
        return self.recipe.tune.model_copy(update={**changes, "learning_rate": phase.rate, "seed": seed})

    def _tuned(self, stages: Stages, variant: str, place: int, seed: int, source: Stage) -> Stage:
        settings = self._settings(self.variants[variant][place], seed + place)
        return stages.tune(f"{_name(variant, seed)}-{place}", "tune", source, settings, teacher=self.teacher)

    def _packed(self, name: str, source: Stage) -> Stage:
        rounded = self.stages.quantize(f"{name}-int8", source, QuantizeSettings(scheme="w8a8", method="rtn"))
        return self.stages.pack(f"packed/{name}", rounded, self.recipe.pack)

    def _with_answers(self, packed: Stage, task: Task) -> Task:
        """The training data with a model's own answers, of those that came to an end; as it is where there are none
        and none may be made."""
        if packed in self.stages.missing():
            if not self.train:
                return task
            self.stages.carry_out()
        asked = replace(task, test=task.train)
        replies = answer(self.kept, packed, asked, self.recipe.compare.max_new_tokens, self.console)["replies"]
        own = tuple(
            replace(sample, answer=reply.strip())
            for sample, reply in zip(task.train, replies, strict=True)
            if final_number(reply) is not None
        )
        self.console.print(f"{packed.name}: {len(own)} of {len(replies)} answers came to an end", highlight=False)
        return replace(task, train=own)

    def _on(self, task: Task) -> Stages:
        """The same stages, of which those added here learn from other answers."""
        other = Stages(self.stages.output, task, self.recipe.task.max_length, self.console)
        other.stages = self.stages.stages
        return other


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    options = parser.parse_args()
    experiment = Beyond(options)
    for seed in options.seeds:
        for variant in Beyond.variants:
            experiment.ask(variant, seed, "validation")
    print(table(experiment.save()))


def table(result: dict[str, Any]) -> str:
    """Right answers of validation by method, and the difference to SquareHead alone over the seeds that both have."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        groups.setdefault(row["variant"], []).append(row)
    lines = [
        "| method | steps | right of validation, by seed | mean [95%] | minus CE+SquareHead [95%] | |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for variant, rows in groups.items():
        mean, low, high = right_share(rows)
        steps = " + ".join(str(phase.steps) for phase in Beyond.variants[variant])
        cells = [variant, steps, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", "", ""]
        if variant != NOT_CLIPPED and NOT_CLIPPED in groups:
            found = paired(groups, variant, NOT_CLIPPED)
            cells[4:] = [points(found), verdict(found)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(found: tuple[float, float, float]) -> str:
    """Of a difference in points with its interval."""
    _, low, high = found
    return "ahead" if low > 0 else "behind" if high < 0 else "not told"


def _name(variant: str, seed: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{variant.lower()}-seed{seed}")


if __name__ == "__main__":
    main()
