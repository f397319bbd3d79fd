"""The cells of an experiment: what is pruned how far, and fine-tuned on which loss, at which rate, with which seed."""

from dataclasses import dataclass

from benchmarks.evidence.designs import LOSSES
from cutwork.recipe import Recipe
from cutwork.run.stages import Source, Stage, Stages


@dataclass(frozen=True)
class Cell:
    """One model that is to be tuned from the teacher, pruned or, at level 0, as it is.

    pattern: not the recipe's. clipped: whether long gradients are, as the recipe says.
    """

    loss: str
    level: float
    seed: int
    rate: float
    steps: int
    pattern: str | None = None
    clipped: bool = True

    @property
    def name(self) -> str:
        """Of its stage; the seed changes calibration data, so the mask, and the order of the training data."""
        loss = self.loss.lower().replace("+", "-")
        level = f"{round(100 * self.level)}{_named(self.pattern)}"
        clipped = "" if self.clipped else "-unclipped"
        return f"{loss}-{level}-rate{self.rate:g}-steps{self.steps}{clipped}-seed{self.seed}"

    def stage(self, recipe: Recipe, stages: Stages, teacher: Source) -> Stage:
        """The stage that makes it, with its pruning; the one that is there already, if it is."""
        for stage in stages.stages:
            if stage.name == self.name:
                return stage
        settings = recipe.tune.model_copy(
            update={
                "losses": LOSSES[self.loss],
                "seed": self.seed,
                "learning_rate": self.rate,
                "max_steps": self.steps,
            }
            | ({} if self.clipped else {"max_grad_norm": 0.0})
        )
        start = pruned(recipe, stages, teacher, self.level, self.seed, self.pattern) if self.level else teacher
        return stages.tune(self.name, "tune", start, settings, teacher=teacher)


def pruned(
    recipe: Recipe,
    stages: Stages,
    teacher: Source,
    level: float,
    seed: int,
    pattern: str | None = None,
    method: str | None = None,
) -> Stage:
    """The teacher pruned in one shot; the stage that is there already, if it is. What is None is the recipe's."""
    settings = recipe.prune.model_copy(
        update={
            "sparsity": level,
            "seed": seed,
            "pattern": pattern or recipe.prune.pattern,
            "method": method or recipe.prune.method,
        }
    )
    name = f"{settings.method}-{round(100 * level)}{_named(settings.pattern)}-seed{seed}"
    for stage in stages.stages:
        if stage.name == name:
            return stage
    return stages.prune(name, teacher, settings)


def _named(pattern: str | None) -> str:
    return f"-{pattern.replace(':', 'of')}" if pattern else ""
