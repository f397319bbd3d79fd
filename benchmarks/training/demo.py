"""Takes what `make demo` measured into benchmarks/results, with where it comes from.

    make demo && python -m benchmarks.training.demo [--run out/demo] [--one-thread | --gate]

Leaves demo.json and demo.png in results/; with --one-thread times three of its models again, for demo_one_thread.json;
with --gate trains the dense model once more for as long, for demo_gate.json: a converged one gains nothing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.evidence.seen_numbers import seen_numbers
from cutwork.measure.interval import wilson
from cutwork.measure.report.plots import plot
from cutwork.measure.report.tables import headings, table_rows
from cutwork.recipe_file import load_recipe
from cutwork.store.json_file import read_json
from cutwork.tasks.load import load_task

_RECIPE = ROOT / "recipes" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "out" / "demo", help="the directory of the run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--one-thread", action="store_true", help="run `cutwork bench` on one thread instead")
    instead.add_argument("--gate", action="store_true", help="train the dense model once more instead")
    options = parser.parse_args()
    if options.gate:
        print(gate_table(save(options.results / "demo_gate.json", _gate(options.run))))
        return
    if options.one_thread:
        models = [str(options.run / "packed" / name) for name in ("dense-bf16", "dense-int8", "sparse-int8")]
        others = [part for other in models[:-1] for part in ("--against", other)]
        found = _cutwork("bench", models[-1], "--threads", "1", *others)
        found["models"] = {Path(name).name: row for name, row in found["models"].items()}
        print(one_thread_table(save(options.results / "demo_one_thread.json", found, threads=1)))
        return
    found = read_json(options.run / "results.json")
    result = save(options.results / "demo.json", found, threads=found["machine"]["threads"])
    (options.results / "demo.png").write_bytes(plot([found]))
    print(table(result))


def _gate(run: Path) -> dict[str, Any]:
    """What the dense model answers before and after another training, and how new the questions are."""
    again = run.with_name(f"{run.name}-gate")
    _cutwork("run", _RECIPE, "--set", f"model={run / 'teacher'}", "--output", again, "--until", "teacher")
    task = load_task(load_recipe(_RECIPE).task)
    rows = []
    for times, model in enumerate((run / "teacher", again / "teacher"), start=1):
        found = _cutwork("eval", model, "--recipe", _RECIPE)
        rows.append({"times": times, "right": found["right"], "questions": found["samples"]})
    return {"rows": rows, "seen_numbers": int(seen_numbers(task).sum())}


def _cutwork(*arguments: Any) -> dict[str, Any]:
    """What a command says as JSON."""
    command = [Path(sys.executable).with_name("cutwork"), *map(str, arguments), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(result: dict[str, Any]) -> str:
    """As `cutwork run` prints it."""
    names = headings([result])
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table_rows([result]))])


def one_thread_table(result: dict[str, Any]) -> str:
    """`cutwork bench` of three of them."""
    lines = ["| model | prefill, tok/s | decode, tok/s |", "|---|--:|--:|"]
    for name, row in result["models"].items():
        speeds = row["prefill_tokens_per_second"], row["decode_tokens_per_second"]
        lines.append(f"| {Path(name).name} | {speeds[0]:.0f} | {speeds[1]:.1f} |")
    return "\n".join(lines)


def gate_table(result: dict[str, Any]) -> str:
    """The dense model as it is, and trained once more."""
    lines = ["| the dense model | right [95%] |", "|---|--:|"]
    for row in result["rows"]:
        low, high = wilson(row["right"], row["questions"])
        trained = "as the demo trains it" if row["times"] == 1 else "trained once more as long"
        lines.append(f"| {trained} | {row['right'] / row['questions']:.1%} [{low:.1%}, {high:.1%}] |")
    asked, seen = result["rows"][0]["questions"], result["seen_numbers"]
    return "\n".join([*lines, "", f"The numbers of {seen} of the {asked} questions are those of a training question."])


if __name__ == "__main__":
    main()
