"""What patterns of half and of three quarters of zeros keep in one shot, by SparseGPT and by ALPS.

    python -m benchmarks.evidence.one_shot                 # half an hour of two cores; resumes
    python -m benchmarks.evidence.one_shot --finished      # prunes nothing, reports what is there

On the teacher and task of `benchmarks.evidence.feature_loss`, in whose output it works, as docs/experiments.md
announces: int8, one seed, the validation questions. Leaves one_shot.json in results/.
"""

from typing import Any

from benchmarks.common.results import save
from benchmarks.evidence.answers import answer, without_replies
from benchmarks.evidence.designs import SEEDS
from benchmarks.evidence.feature_loss import FeatureLoss, arguments
from benchmarks.evidence.statistics import mcnemar, points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points
from cutwork.recipe import Pruner, QuantizeSettings
from cutwork.run.stages import Stage

FREE = "unstructured"
PATTERNS = {  # by level, the freest first
    0.75: (FREE, "16:64", "adaptive", "4:16", "2:8"),
    0.5: (FREE, "32:64", "adaptive", "8:16", "4:8"),
}
TEACHER = {"method": "–", "level": 0.0, "pattern": "dense teacher"}
METHODS: tuple[Pruner, ...] = ("sparsegpt", "alps")


class OneShot(FeatureLoss):
    """The teacher, pruned and not trained."""

    name = "one_shot"

    def ask_pruned(self, method: Pruner, level: float, pattern: str) -> None:
        """Ask what a pruner leaves, in int8."""
        stage = self.pruned_only(method, level, pattern)
        self._ask(stage, {"method": method, "level": level, "pattern": pattern})

    def ask_teacher(self) -> None:
        """Ask the model that all are made of, in bfloat16."""
        self._ask(self.stages.pack("packed/teacher", self.teacher, self.recipe.pack), dict(TEACHER))

    def _ask(self, stage: Stage, about: dict[str, Any]) -> None:
        """Add a row, unless the model is not made and may not be."""
        if stage in self.stages.missing():
            if not self.train:
                return
            self.stages.carry_out()
        found = answer(self.kept, stage, self.splits["validation"], self.recipe.compare.max_new_tokens, self.console)
        self.rows.append({**about, **without_replies(found)})
        self.console.print(f"{stage.name}: {found['right'] / found['samples']:.1%} right", highlight=False)
        self.save()

    def pruned_only(self, method: Pruner, level: float, pattern: str) -> Stage:
        """The packed model, made when stages are carried out."""
        if (method, level) == (self.recipe.prune.method, 0.75):  # whose masks are there
            masks, name = self.masks(SEEDS[0], pattern), f"one-shot-{pattern.replace(':', 'of')}"
        else:
            settings = self.pruning(SEEDS[0], pattern).model_copy(update={"method": method, "sparsity": level})
            name = f"{method}-{round(100 * level)}-{pattern.replace(':', 'of')}"
            masks = self.stages.prune(f"pruned-{name}", self.teacher, settings)
        rounded = self.stages.quantize(f"{name}-int8", masks, QuantizeSettings(scheme="w8a8", method="rtn"))
        return self.stages.pack(f"packed/{name}", rounded, self.recipe.pack)

    def save(self) -> dict[str, Any]:
        """The result as it is so far, also left in its file."""
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune")}
        return save(self.results / f"{self.name}.json", {**about, "rows": self.rows}, compact=True)


def main() -> None:
    experiment = OneShot(arguments(__doc__).parse_args())
    experiment.ask_teacher()
    for level, patterns in PATTERNS.items():
        for method in METHODS:
            for pattern in patterns:
                experiment.ask_pruned(method, level, pattern)
    print(table(experiment.save()))


def table(result: dict[str, Any]) -> str:
    """Right answers by level, pruner and pattern; differences are paired by question."""
    rows = {(row["level"], row["method"], row["pattern"]): row for row in result["rows"]}
    lines = [
        "| zeros | pruner | pattern | right [95%] | minus zeros anywhere, points [95%] | McNemar's p "
        "| answers' perplexity |",
        "|--:|---|---|--:|--:|--:|--:|",
    ]
    for (level, method, pattern), row in rows.items():
        _, low, high = right_share([row])
        against = p = ""
        free = rows.get((level, method, FREE))
        if free and pattern != FREE:
            [pair] = pairs = seed_pairs([row], [free])
            against, p = points(points_above(pairs)), f"{mcnemar(*pair[:2]):.2g}"
        share = f"{row['right'] / row['samples']:.1%} [{low:.1%}, {high:.1%}]"
        cells = [f"{level:.0%}", method, pattern, share, against, p, f"{row['answer_perplexity']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
