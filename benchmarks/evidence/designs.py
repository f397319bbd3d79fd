"""The experiments that docs/experiments.md announces: what each varies. What its cells have in common is its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cutwork.recipe import Losses

LOSSES = {
    "CE": Losses(ce=1.0),
    "CE+KL": Losses(ce=1.0, kl=1.0),
    "CE+SquareHead": Losses(ce=1.0, squarehead=1.0),
    "CE+KL+SquareHead": Losses(ce=1.0, kl=1.0, squarehead=1.0),
    "CE+0.1SquareHead": Losses(ce=1.0, squarehead=0.1),
}
PRIMARY = ("CE", "CE+SquareHead")  # compared first, at the first level
SEEDS = (0, 1, 2)
DENSE = "dense"  # in the place of a pattern: a model without zeros that was trained on as those with zeros were


@dataclass(frozen=True)
class Design:
    """What an experiment varies.

    held_out: templates of gsm_symbolic that are in no training sample. validation: of the recipe's held-out questions,
    the first so many; all choices are made on these. unseen: questions of the templates that are held out.
    rate_share: of a cell's steps, when rates are tried; with 1 the chosen one's model is the first seed's.
    steps: what a loss's steps are multiplied by, where losses get the same time and not the same steps. asked: in which
    encoding a sparse model answers; int8 ones, by rounding, answer several times as fast. leading_only: the losses are
    compared on validation, and the first seed's best alone goes on, for `longer` times the steps. test_seed: of the
    test's questions, where the recipe's own have been asked before; none of these is among them.
    """

    recipe: Path
    result: str
    held_out: tuple[int, ...]
    validation: int
    unseen: int
    losses: tuple[str, ...]
    levels: tuple[float, ...]
    rates: tuple[float, ...]
    rate_share: float = 0.5
    steps: Mapping[str, float] = field(default_factory=dict)
    asked: Literal["float", "int8"] = "float"
    leading_only: bool = False
    longer: float = 1.0
    test_seed: int | None = None
    fresh: bool = False


_HERE = Path(__file__).parent
DESIGNS = {
    # 20 templates drawn by random.Random(2310).sample, of all; the last four are held out.
    "announced": Design(
        recipe=_HERE / "smollm2.yaml",
        result="evidence",
        held_out=(81, 93, 67, 4),
        validation=500,
        unseen=1000,
        losses=tuple(LOSSES),
        levels=(0.75, 0.6),
        rates=(1e-4, 2e-4, 4e-4),
    ),
    # All ten of the templates with at most 128 tokens on average, in the order of the same draw; the last two held out.
    "short": Design(
        recipe=_HERE / "short.yaml",
        result="evidence_short",
        held_out=(50, 99),
        validation=400,
        unseen=200,
        losses=PRIMARY,
        levels=(0.75,),
        rates=(4e-4, 8e-4),
        rate_share=1.0,
        steps={"CE": 1.3},  # SquareHead asks the teacher, so its steps take 1.3 times as long
        asked="int8",
    ),
}
# The short experiment's teacher, masks and data; the loss that leads, for three times as long.
DESIGNS["longer"] = replace(
    DESIGNS["short"],
    result="evidence_longer",
    losses=("CE", "CE+KL", "CE+0.1SquareHead"),
    rates=(4e-4,),
    leading_only=True,
    longer=3.0,
    test_seed=2311,
)

# The same templates; the test's numbers occur nowhere in training.
DESIGNS["new-numbers"] = replace(
    DESIGNS["short"],
    recipe=_HERE / "new_numbers.yaml",
    result="new_numbers",
    validation=0,
    losses=("CE",),
    rates=(4e-4,),
)

# The same, trained for half as long: heads in int4, which int4_heads.py stores.
DESIGNS["int4-heads"] = replace(DESIGNS["new-numbers"], result="int4_heads")

# A teacher that has learned more; what is made of it is in converged_files.py.
DESIGNS["converged"] = replace(
    DESIGNS["new-numbers"],
    recipe=_HERE / "converged.yaml",
    result="converged_files",
    held_out=(),
    validation=500,
    unseen=0,
    rates=(1e-4,),
    fresh=True,
)

# As long a training as the teacher's, which converged_longer.py makes.
DESIGNS["converged-longer"] = replace(
    DESIGNS["converged"], recipe=_HERE.parent / "compress/converged.yaml", result="converged_longer", rates=(2e-4,)
)

# A published benchmark; what is trained how far is in gsm8k.py.
DESIGNS["gsm8k"] = Design(
    recipe=_HERE / "gsm8k.yaml",
    result="gsm8k",
    held_out=(),
    validation=0,
    unseen=0,
    losses=PRIMARY,
    levels=(0.75, 0.6),
    rates=(2e-4,),
    steps={"CE+SquareHead": 1 / 1.3},  # which asks the teacher, so its steps take longer
    asked="int8",
)
