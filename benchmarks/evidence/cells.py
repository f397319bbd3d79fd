"""The cells of the experiment: what is pruned how far, and fine-tuned on which loss, at which rate, with which seed."""

from dataclasses import dataclass

from cutwork.recipe import Losses, Recipe
from cutwork.run.stages import Source, Stage, Stages

LOSSES = {
    "CE": Losses(ce=1.0),
    "CE+KL": Losses(ce=1.0, kl=1.0),
    "CE+SquareHead": Losses(ce=1.0, squarehead=1.0),
    "CE+KL+SquareHead": Losses(ce=1.0, kl=1.0, squarehead=1.0),
}
PRIMARY = ("CE", "CE+SquareHead")  # compared first, at the first of LEVELS
LEVELS = (0.75, 0.6)
RATES = (1e-4, 2e-4, 4e-4)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One model that is to be tuned from the teacher, pruned or, at level 0, as it is."""

    loss: str
    level: float
    seed: int
    rate: float
    steps: int

    @property
    def name(self) -> str:
        """Of its stage; the seed changes calibration data, so the mask, and the order of the training data."""
        loss = self.loss.lower().replace("+", "-")
        return f"{loss}-{round(100 * self.level)}-rate{self.rate:g}-steps{self.steps}-seed{self.seed}"

    def stage(self, recipe: Recipe, stages: Stages, teacher: Source) -> Stage:
        """Adds what makes it, with its pruning."""
        settings = recipe.tune.model_copy(
            update={
                "losses": LOSSES[self.loss],
                "seed": self.seed,
                "learning_rate": self.rate,
                "max_steps": self.steps,
            }
        )
        start = pruned(recipe, stages, teacher, self.level, self.seed) if self.level else teacher
        return stages.tune(self.name, "tune", start, settings, teacher=teacher)


def pruned(recipe: Recipe, stages: Stages, teacher: Source, level: float, seed: int) -> Stage:
    """The teacher pruned in one shot; the stage that is there already, if it is."""
    name = f"{recipe.prune.method}-{round(100 * level)}-seed{seed}"
    for stage in stages.stages:
        if stage.name == name:
            return stage
    return stages.prune(name, teacher, recipe.prune.model_copy(update={"sparsity": level, "seed": seed}))
