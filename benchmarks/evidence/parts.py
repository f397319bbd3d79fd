"""On which questions models differ: kept answers, split by what a question is like.

    python -m benchmarks.evidence.parts     # seconds; nothing is trained or asked

No test question here has the numbers of a training question in their order, but single steps of the arithmetic may
stand in training's answers: split by whether every equation of the reference answer does. Where several templates
have many questions, also by template. Leaves parts.json in results/.
"""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.results import RESULTS, load, save
from benchmarks.evidence import converged, converged_rates, new_numbers
from benchmarks.evidence.feature_loss import CE
from benchmarks.evidence.levels import TEACHER
from benchmarks.evidence.questions import sets, templates
from benchmarks.evidence.statistics import Pair, Pairs, points_above, seed_pairs
from benchmarks.evidence.wording import points
from cutwork.tasks.task import Task

Rows = Sequence[Mapping[str, Any]]
Compared = tuple[str, str, Pairs]  # two models' names and answers, seed by seed
NEW_NUMBERS, CONVERGED = "new numbers", "a teacher that has learned more"  # of `questions`
CONVERGED_RATES = "the same, at rates of its own"
_EQUATION = re.compile(r"[\d.,$%(][\d\s.,$%()+*/x×-]*=\s*[$-]?[\d.,]*\d")
_WORD = re.compile(r"[A-Za-z][A-Za-z/'.]*")
_STEPS = {True: "training shows every step", False: "not every step"}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows: list[dict[str, Any]] = []
    made = sets()
    for result, (name, compared) in _RESULTS.items():
        recipe, splits, _ = made[name]
        task = splits(recipe)["test"]
        seen, of = seen_steps(task), np.array(templates(recipe, task))
        chosen = {said: seen == known for known, said in _STEPS.items()}
        if result == "new_numbers":
            chosen |= {f"template {number}": of == number for number in np.unique(of)}
        for ours, theirs, pairs in compared(load(f"{result}.json")):
            for part, those in chosen.items():
                rows.append({"of": name, "part": part, "ours": ours, "theirs": theirs, **_told(pairs, those)})
    result = save(RESULTS / "parts.json", {"rows": rows})
    print(*(by_steps(result, name) for name in (CONVERGED, CONVERGED_RATES)), table(result, NEW_NUMBERS), sep="\n\n")


def _new_numbers(result: dict[str, Any]) -> Iterable[Compared]:
    groups = new_numbers.grouped(result)
    ours, theirs = groups[new_numbers.ANYWHERE], groups[new_numbers.CONTROL]
    yield "75% zeros anywhere", "dense, trained on", seed_pairs(ours, theirs)


def _converged(result: dict[str, Any]) -> Iterable[Compared]:
    groups = converged.grouped(result)
    yield from _beside_the_teacher(groups, groups[TEACHER, CE])


def _converged_rates(result: dict[str, Any]) -> Iterable[Compared]:
    groups = converged_rates.tested(result)
    yield from _beside_the_teacher(groups, groups[TEACHER, ""])


def _beside_the_teacher(groups: converged.Groups, teacher: Rows) -> Iterable[Compared]:
    for (kind, loss), rows in groups.items():
        if kind != TEACHER:
            yield f"{converged.named(kind)}, {loss}", TEACHER, seed_pairs(rows, teacher)


_RESULTS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterable[Compared]]]] = {  # with the name of their questions
    "new_numbers": (NEW_NUMBERS, _new_numbers),
    "converged": (CONVERGED, _converged),
    "converged_rates": (CONVERGED_RATES, _converged_rates),
}


def _told(pairs: Pairs, those: NDArray[np.bool_]) -> dict[str, Any]:
    """What of the answers to some of the questions is right."""
    ours, theirs = (np.stack(each)[:, those] for each in zip(*(pair[:2] for pair in pairs), strict=True))
    return {
        "questions": int(those.sum()),
        "seeds": len(pairs),
        "right": [float(ours.mean()), float(theirs.mean())],
        "difference": points_above([Pair(*each) for each in zip(ours, theirs, strict=True)]),
    }


def seen_steps(task: Task) -> NDArray[np.bool_]:
    """Per test question, whether its reference answer has equations and each stands in some training answer."""
    known = {step for sample in task.train for step in equations(sample.answer)}
    steps = [equations(sample.answer) for sample in task.test]
    return np.array([bool(each) and known.issuperset(each) for each in steps])


def equations(answer: str) -> set[str]:
    """As they stand in an answer, without spaces and what is counted."""
    bare = _WORD.sub(lambda word: word[0] if word[0] == "x" else "", answer)
    return {re.sub(r"[\s,]", "", found) for line in bare.splitlines() for found in _EQUATION.findall(line)}


def table(result: dict[str, Any], of: str) -> str:
    """Accuracy in int8 of the models of one test on each part of its questions, and the difference in points; a line a
    part."""
    rows = [row for row in result["rows"] if row["of"] == of]
    lines = [f"| | questions | {rows[0]['ours']} | {rows[0]['theirs']} | difference [95%] |", "|---|--:|--:|--:|--:|"]
    for row in rows:
        ours, theirs = (f"{share:.1%}" for share in row["right"])
        lines.append(f"| {row['part']} | {row['questions']} | {ours} | {theirs} | {points(row['difference'])} |")
    return "\n".join(lines)


def by_steps(result: dict[str, Any], of: str) -> str:
    """The same of several models beside the teacher; a line a model."""
    rows = [row for row in result["rows"] if row["of"] == of]
    parts = {row["part"]: row for row in rows}
    heads = [f"{part} ({row['questions']} questions) | minus the teacher [95%]" for part, row in parts.items()]
    teacher = " | | ".join(f"{row['right'][1]:.1%}" for row in parts.values())
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "--:|" * 2 * len(parts), f"| the teacher | {teacher} | |"]
    for name in dict.fromkeys(row["ours"] for row in rows):
        own = [row for row in rows if row["ours"] == name]
        cells = [f"{row['right'][0]:.1%} | {points(row['difference'])}" for row in own]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
