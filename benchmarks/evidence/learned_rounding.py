"""Whether a training that sees the rounding keeps what rounding to 4 bits costs, with 75% zeros and without.

    python -m benchmarks.evidence.learned_rounding               # two hours of two cores; resumes
    python -m benchmarks.evidence.learned_rounding --finished    # trains nothing, reports what is there

SmolLM2-135M, the teacher and data of `benchmarks.evidence.new_numbers`. 4 of 16 and the dense model, trained on for
half as long as there, are rounded by GPTQ as they are; after 100 more steps of the same training; or trained for these
100 steps with the rounding in sight (`quantize --method qat`). As docs/experiments.md announces: every file is asked
the test once. Leaves learned_rounding.json in results/.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS
from benchmarks.evidence.cells import Cell
from benchmarks.evidence.designs import LOSSES, SEEDS
from benchmarks.evidence.new_numbers import DENSE, LEVEL, LOSS, RATE, NewNumbers
from benchmarks.evidence.report import at_most_below, told
from benchmarks.evidence.statistics import points_above, right_share, seed_pairs
from benchmarks.evidence.wording import points, seeds, shares
from cutwork.recipe import QAT
from cutwork.run.stages import Stage

PATTERNS = ("4:16", DENSE)
FIRST = 125  # steps of what is trained on before,
MORE, MORE_RATE = 100, 1e-4  # and of either last training, and its rate
AS_IT_IS, PLAIN, LEARNED = "GPTQ", "100 more steps, GPTQ", "100 steps that see the rounding"
INT8, INT4, HEAD = "int8", "int4", "int4, head too"
FILES = ((AS_IT_IS, INT8), *((kind, encoding) for kind in (AS_IT_IS, PLAIN, LEARNED) for encoding in (INT4, HEAD)))

Named = tuple[str, str, str]  # pattern, how it was rounded, encoding
GAIN, LOSS_ALLOWED = 2.0, 2.0  # points


class LearnedRounding(NewNumbers):
    """Files of models that have been trained on, by how they were rounded."""

    result = "learned_rounding"

    def tuned(self, pattern: str, seed: int) -> Stage:
        level = 0.0 if pattern == DENSE else LEVEL
        return self.tune(Cell(LOSS, level, seed, RATE, FIRST, None if pattern == DENSE else pattern))

    def file(self, pattern: str, kind: str, encoding: str, seed: int) -> Stage:
        """A model's file, made when stages are carried out."""
        tuned, there = self.tuned(pattern, seed), {stage.name: stage for stage in self.stages.stages}
        if kind == AS_IT_IS:
            return self.packed(tuned, encoding)
        changes = {"losses": LOSSES[LOSS], "seed": seed + 1, "learning_rate": MORE_RATE, "max_steps": MORE}
        if kind == PLAIN:
            more = there.get(f"{tuned.name}-more") or self.stages.tune(
                f"{tuned.name}-more", "tune", tuned, self.recipe.tune.model_copy(update=changes)
            )
            return self.packed(more, encoding)
        assert self.recipe.quantize
        training = QAT.model_validate(self.recipe.tune.model_copy(update=changes).model_dump(exclude_unset=True))
        rounding = {"scheme": "w4a16", "method": "qat", "qat": training}
        name = f"{tuned.name}-learned"
        learned = there.get(name) or self.stages.quantize(name, tuned, self.recipe.quantize.model_copy(update=rounding))
        packed = f"packed/{name}-{encoding.replace(', ', '-').replace(' ', '-')}"
        head = {"head": "i4"} if encoding == HEAD else {}
        return there.get(packed) or self.stages.pack(packed, learned, self.recipe.pack.model_copy(update=head))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=[SEEDS[0]])
    parser.add_argument("--finished", action="store_true", help="train nothing; report what is there")
    parser.add_argument("--output", type=Path, default=Path("out/new-numbers"), help="default: %(default)s")
    options = parser.parse_args()
    experiment = LearnedRounding(argparse.Namespace(design="new-numbers", results=RESULTS, **vars(options)))
    for seed in options.seeds:
        for pattern in PATTERNS:
            for kind, encoding in FILES:
                file = experiment.file(pattern, kind, encoding, seed)
                about = {"kind": kind, "pattern": pattern, "encoding": encoding, "seed": seed}
                experiment.ask(file, "test", **about, file=file.output.name)
    result = {"rows": experiment.rows}
    print(table(result), verdicts(result), sep="\n\n")


def table(result: dict[str, Any]) -> str:
    """Right answers of every file over its seeds, minus the same model's int8 and the dense one's."""
    lines = [
        "| zeros | rounded after | file | right, by seed | mean [95%] | minus its int8 [95%] | minus dense int8 [95%] "
        "| answers' perplexity |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for (pattern, kind, encoding), rows in grouped(result).items():
        mean, low, high = right_share(rows)
        own, dense = ((each, AS_IT_IS, INT8) for each in (pattern, DENSE))
        against = [
            "" if other == (pattern, kind, encoding) else points(difference(result, (pattern, kind, encoding), other))
            for other in (own, dense)
        ]
        perplexity = np.mean([row["answer_perplexity"] for row in rows])
        made = "rounding" if encoding == INT8 else kind
        cells = [pattern, made, encoding, shares(rows), f"{mean:.1%} [{low:.1%}, {high:.1%}]", *against]
        lines.append(f"| {' | '.join(cells)} | {perplexity:.3f} |")
    return "\n".join(lines)


def verdicts(result: dict[str, Any]) -> str:
    """What was announced as success: met, missed, or not told by so many seeds."""
    lines = ["| announced as success | found | |", "|---|---|---|"]
    four = PATTERNS[0]
    for encoding in (INT4, HEAD):
        for pattern in PATTERNS:
            ours, theirs = (pattern, LEARNED, encoding), (pattern, PLAIN, encoding)
            claim = f"{pattern}, {encoding}: rounding that is seen {GAIN:g} points ahead of more training"
            if found := difference(result, ours, theirs):
                met = found[0] >= GAIN and found[1] > 0
                lines.append(f"| {claim} | {points(found)}, {seeds(len(grouped(result)[ours]))} | {told(met)} |")
        for kind in (PLAIN, LEARNED):
            claim = f"{four}, {encoding}, learned, at most {LOSS_ALLOWED:g} points below dense {encoding}, {kind}"
            if found := difference(result, (four, LEARNED, encoding), (DENSE, kind, encoding)):
                met_ = at_most_below(LOSS_ALLOWED, found)
                count = seeds(len(grouped(result)[four, LEARNED, encoding]))
                lines.append(f"| {claim} | {points(found)}, {count} | {told(met_)} |")
    return "\n".join(lines)


def difference(result: dict[str, Any], ours: Named, theirs: Named) -> tuple[float, float, float] | None:
    """Points of one file above another, with the 95% interval, over the seeds that both have; None without any."""
    groups = grouped(result)
    pairs = seed_pairs(groups.get(ours, ()), groups.get(theirs, ()))
    return points_above(pairs) if pairs else None


def grouped(result: dict[str, Any]) -> dict[Named, list[dict[str, Any]]]:
    """The rows of all seeds of each file."""
    groups: dict[Named, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        groups[row["pattern"], row["kind"], row["encoding"]].append(row)
    return groups


if __name__ == "__main__":
    main()
