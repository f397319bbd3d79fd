"""How much of what the evidence's models answer they may have learned by heart: their answers, split by whether a
question's numbers were in training.

    python -m benchmarks.evidence.seen_numbers

No text of a test question occurs in training, but its numbers may, under other names. Takes the answers that the
experiments kept; nothing is trained or asked. Leaves seen_numbers.json in results/.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.data import splits
from benchmarks.evidence.designs import DESIGNS
from benchmarks.evidence.statistics import paired_bootstrap, unpacked
from cutwork.recipe_file import load_recipe
from cutwork.store.json_file import read_json
from cutwork.tasks.gsm_symbolic import numbers
from cutwork.tasks.task import Task

_DENSE = "dense int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    designs = []
    for name in ("short", "longer"):
        design, found = DESIGNS[name], read_json(RESULTS / f"evidence_{name}.json")
        task = splits(design, load_recipe(design.recipe))["test"]
        seen = seen_numbers(task)
        files: dict[str, list[Any]] = {}
        for row in found["rows"]:
            if row["split"] == "test" and (about := _name(row)) is not None:
                files.setdefault(about, []).append(unpacked(row))
        designs.append({"design": name, "questions": len(seen), "seen": int(seen.sum()), "rows": _rows(files, seen)})
    print(table(save(RESULTS / "seen_numbers.json", {"designs": designs})))


def seen_numbers(task: Task) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Per test question, whether a training question has the same numbers in the same order (bool [questions])."""
    known = {numbers(sample.prompt) for sample in task.train}
    return np.array([numbers(sample.prompt) in known for sample in task.test])


def _name(row: dict[str, Any]) -> str | None:
    """What a row's file is called in the table; None if it has no place there."""
    match row["kind"]:
        case "one-shot":
            return "int8, 75% zeros, one shot"
        case "core" if row["loss"] == "CE":  # in int8, of every seed
            return "int8, 75% zeros, fine-tuned"
        case "quantized" if row["level"] and row["encoding"] == "int4":
            return "int4, 75% zeros, fine-tuned"
        case "quantized" if row["level"]:
            return None
        case "quantized":
            return f"dense {row['encoding']}"
        case "control, quantized":
            return f"dense {row['encoding']}, trained on"
    return None


def _rows(files: dict[str, list[Any]], seen: Any) -> list[dict[str, Any]]:
    """Right answers of each file among questions of either kind, and how far it is from dense int8 there, in points."""
    rows = []
    for name, seeds in files.items():
        row: dict[str, Any] = {"file": name, "seeds": len(seeds)}
        for kind, chosen in (("seen", seen), ("new", ~seen)):
            ours = np.stack(seeds)[:, chosen]
            theirs = np.broadcast_to(files[_DENSE][0][chosen], ours.shape)
            row[kind] = {"right": float(ours.mean()), "questions": int(chosen.sum())}
            if name != _DENSE:
                row[kind]["minus_dense"] = [100 * x for x in paired_bootstrap(ours, theirs)]
        rows.append(row)
    return rows


def table(result: dict[str, Any]) -> str:
    """Accuracy, and points from dense int8 with 95% intervals, by whether the numbers were seen in training."""
    lines = [
        "| experiment | file | seeds | numbers seen in training | minus dense int8 | new numbers | minus dense int8 |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for design in result["designs"]:
        for row in design["rows"]:
            cells = []
            for kind in ("seen", "new"):
                cells.append(f"{row[kind]['right']:.1%} of {row[kind]['questions']}")
                mean, low, high = row[kind].get("minus_dense", (0, 0, 0))
                cells.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" if "minus_dense" in row[kind] else "")
            lines.append(f"| {design['design']} | {row['file']} | {row['seeds']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
