"""How much of the answers to new numbers may have been learned step by step: the answers that new_numbers kept, split
by whether every equation of a question's reference answer stands in some training answer.

    python -m benchmarks.evidence.seen_steps

No question's numbers occur in training in their order, but single steps of the arithmetic do. Nothing is trained or
asked. Leaves seen_steps.json in results/.
"""

import argparse
import re
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.data import splits
from benchmarks.evidence.designs import DESIGNS
from benchmarks.evidence.new_numbers import ANYWHERE, CONTROL, grouped
from benchmarks.evidence.statistics import paired_bootstrap, unpacked
from cutwork.recipe_file import load_recipe
from cutwork.store.json_file import read_json
from cutwork.tasks.task import Task

_EQUATION = re.compile(r"[\d.,$%(][\d\s.,$%()+*/x×-]*=\s*[$-]?[\d.,]*\d")
_WORD = re.compile(r"[A-Za-z][A-Za-z/'.]*")
_COMPARED = {"75% zeros anywhere": ANYWHERE, "dense, trained on": CONTROL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    design, found = DESIGNS["new-numbers"], read_json(RESULTS / "new_numbers.json")
    task = splits(design, load_recipe(design.recipe))["test"]
    seen, groups = seen_steps(task), grouped(found)
    models = {name: np.stack([unpacked(row) for row in groups[which]]) for name, which in _COMPARED.items()}
    rows = [_row(models, seen, True), _row(models, ~seen, False)]
    print(table(save(RESULTS / "seen_steps.json", {"rows": rows})))


def seen_steps(task: Task) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Per test question, whether its reference answer has equations and each stands in some training answer."""
    known = {step for sample in task.train for step in equations(sample.answer)}
    steps = [equations(sample.answer) for sample in task.test]
    return np.array([bool(each) and known.issuperset(each) for each in steps])


def equations(answer: str) -> set[str]:
    """As they stand in an answer, without spaces and what is counted."""
    bare = _WORD.sub(lambda word: word[0] if word[0] == "x" else "", answer)
    return {re.sub(r"[\s,]", "", found) for line in bare.splitlines() for found in _EQUATION.findall(line)}


def _row(models: dict[str, Any], chosen: Any, seen: bool) -> dict[str, Any]:
    ours, theirs = (answers[:, chosen] for answers in models.values())
    return {
        "seen": seen,
        "questions": int(chosen.sum()),
        "seeds": len(ours),
        "right": {name: float(answers[:, chosen].mean()) for name, answers in models.items()},
        "difference": [100 * x for x in paired_bootstrap(ours, theirs)],
    }


def table(result: dict[str, Any]) -> str:
    """Accuracy in int8 of both kinds of questions, and the difference in points."""
    names = list(result["rows"][0]["right"])
    lines = [f"| every step of the answer in training | questions | {' | '.join(names)} | difference [95%] |"]
    lines.append("|---|" + "--:|" * (len(names) + 2))
    for row in result["rows"]:
        shares = " | ".join(f"{row['right'][name]:.1%}" for name in names)
        mean, low, high = row["difference"]
        told = "yes" if row["seen"] else "no"
        lines.append(f"| {told} | {row['questions']} | {shares} | {mean:+.1f} [{low:+.1f}, {high:+.1f}] |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
