"""Files of 8 and 4 bits of a teacher that has learned more, with half to three quarters of zeros and without.

    python -m benchmarks.evidence.converged_files               # two hours of two cores; resumes
    python -m benchmarks.evidence.converged_files --finished    # trains nothing, reports what is there

What `benchmarks.evidence.converged_rates` trained by cross-entropy, at the rate that it chose, and two more patterns
trained alike: 4 of 16 and 8 of 16. Every file is asked the questions of that test once, as docs/experiments.md
announces; `benchmarks.evidence.pareto converged` times these files. Leaves converged_files.json in results/.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.common.results import save
from benchmarks.evidence.answers import answer, without_replies
from benchmarks.evidence.converged import above, named
from benchmarks.evidence.converged_rates import ConvergedRates, variant
from benchmarks.evidence.designs import DENSE, DESIGNS, SEEDS
from benchmarks.evidence.feature_loss import CE, arguments
from benchmarks.evidence.levels import TEACHER
from benchmarks.evidence.report import paid
from benchmarks.evidence.statistics import right_share
from benchmarks.evidence.wording import points, shares
from cutwork.recipe import PackSettings
from cutwork.run.stages import Stage

RATE = DESIGNS["converged"].rates[0]  # what cross-entropy did best with
KINDS = ("75% 4:16", "50% 8:16", "60% unstructured", "75% unstructured")
INT8, INT4, INT4_HEAD, BF16 = "int8", "int4", "int4, head too", "bf16"


class ConvergedFiles(ConvergedRates):
    """Models of one loss, packed in several encodings."""

    name = DESIGNS["converged"].result
    rate: ClassVar[float] = RATE
    trained: ClassVar[str] = variant(CE, RATE)  # the variant that they are of,
    losses: ClassVar[Mapping[str, str]] = {}  # unless a kind names its loss: "75% 4:16, CE"

    def save(self) -> dict[str, Any]:
        about = {key: getattr(self.recipe, key).model_dump(mode="json") for key in ("task", "teacher", "prune")}
        return save(self.results / f"{self.name}.json", {**about, "rate": self.rate, "rows": self.rows}, compact=True)

    def ask_all(self, kinds: Sequence[str], seeds: Sequence[int]) -> None:
        """The teacher's files, then those of every kind, seed after seed."""
        for encoding in (BF16, INT8, INT4, INT4_HEAD):
            self.ask_file(TEACHER, encoding, SEEDS[0])
        for seed in seeds:
            for kind in kinds:
                for encoding in (INT8, INT4, INT4_HEAD):
                    self.ask_file(kind, encoding, seed)

    def ask_file(self, kind: str, encoding: str, seed: int) -> None:
        """Make a file unless it is there, and ask it the test."""
        zeros, _, loss = kind.partition(", ")
        stage = self.file(zeros, encoding, seed, self.losses[loss] if loss else self.trained)
        if stage in self.stages.missing():
            if not self.train:
                return
            self.stages.carry_out()
        level, _, pattern = zeros.partition("% ")
        model: dict[str, Any] = (
            {"level": int(level) / 100, "pattern": pattern, "seed": seed} if pattern else {"level": 0.0}
        )
        if zeros == DENSE:
            model |= {"pattern": DENSE, "seed": seed}
        if loss:
            model |= {"loss": loss}
        found = answer(self.kept, stage, self.splits["test"], self.recipe.compare.max_new_tokens, self.console)
        about = {"kind": "file", "encoding": encoding, **model, "file": stage.output.name}
        self.rows.append({**about, **without_replies(found)})
        share = found["right"] / found["samples"]
        self.console.print(f"{kind}, {encoding}, seed {seed}: {share:.1%} right", highlight=False)
        self.save()

    def file(self, kind: str, encoding: str, seed: int, trained: str) -> Stage:
        """The file of a model of a variant in an encoding; the one that is there, if it is."""
        rounded = self.model(trained, seed, kind)
        if encoding == INT8:
            return rounded
        phases = self.phases[trained, seed, kind]
        source = phases[-1] if phases else self.teacher
        own = f"{rounded.name.removeprefix('packed/')}-{'bf16' if encoding == BF16 else 'int4'}"
        there = {stage.name: stage for stage in self.stages.stages}
        packed = f"packed/{own}{'-head' if encoding == INT4_HEAD else ''}"
        if packed in there:
            return there[packed]
        if encoding == BF16:
            return self.stages.pack(packed, source, PackSettings(dtype="bf16"))
        assert self.recipe.quantize
        settings = self.recipe.quantize.model_copy(update={"scheme": "w4a16"})
        four = there.get(own) or self.stages.quantize(own, source, settings)
        head = {"head": "i4"} if encoding == INT4_HEAD else {}
        return self.stages.pack(packed, four, self.recipe.pack.model_copy(update=head))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.set_defaults(output=Path("out/converged"))
    options = parser.parse_args()
    experiment = ConvergedFiles(options)
    experiment.ask_all(KINDS, options.seeds)
    experiment.save()


def files(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows by what a table calls the zeros of a model, and by encoding."""
    groups = defaultdict(list)
    for row in result["rows"]:
        zeros = f"{row['level']:.0%} {row['pattern']}" if row["level"] else row.get("pattern", TEACHER)
        groups[", ".join(filter(None, (named(zeros), row.get("loss")))), row["encoding"]].append(row)
    return groups


def table(result: dict[str, Any]) -> str:
    """Right answers of every file over its seeds, and the differences to the teacher's in 8 and 4 bits."""
    groups = files(result)
    lines = [
        "| zeros | file | right of the test, by seed | mean [95%] | minus the teacher in int8 [95%] | in int4 [95%] |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (zeros, encoding), rows in groups.items():
        mean, low, high = right_share(rows)
        teachers = ((TEACHER, INT8), (TEACHER, INT4))
        against = ["" if other == (zeros, encoding) else points(above(rows, groups[other])) for other in teachers]
        cells = [zeros, encoding, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", *against]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(timed: dict[str, Any]) -> str:
    """Whether zeros pay beside dense 4 bits, as announced; `timed`: what `pareto` measured of the files."""
    return "\n".join(["| announced as success | found | |", "|---|---|---|", *paid(timed)])


if __name__ == "__main__":
    main()
