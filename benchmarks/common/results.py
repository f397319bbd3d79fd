"""The files in benchmarks/results: each with its provenance, and none of two machines or builds."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common.provenance import ROOT, provenance
from cutwork.store.atomic import write_atomically

RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build"  # where a result is left that is not kept in the repository
RECIPES = ROOT / "recipes"
QUESTIONS = RESULTS / "questions.json"  # which answers are to one problem (benchmarks/evidence/questions.py)


def save(
    file: Path,
    content: dict[str, Any],
    *,
    threads: int | None = None,
    versions: dict[str, str] | None = None,
    compact: bool = False,
) -> dict[str, Any]:
    """Write a result with its provenance, whole or not at all; returns it as `load` does."""
    result = {"provenance": provenance(threads, versions), **content}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(result, indent=None if compact else 1) + "\n")
    return _with_problems(result, file.stem)


def load(name: str) -> dict[str, Any]:
    """A committed result by its file's name; rows of answers to questions of which several are one problem tell, as
    `alike`, the problem of each."""
    return _with_problems(json.loads((RESULTS / name).read_text()), Path(name).stem)


def resume(file: Path) -> dict[str, Any]:
    """What is in a file that more results of this machine and build can be added to; {} if there is none.

    Raises SystemExit, with a sentence, if it was measured on another processor or with another build.
    """
    if not file.exists():
        return {}
    found: dict[str, Any] = json.loads(file.read_text())
    refuse_mixture(file, found.get("provenance", {}))
    return found


def refuse_mixture(file: Path, before: dict[str, Any]) -> None:
    """Raise SystemExit unless this process runs the build, on the processor, of an earlier provenance."""
    now = provenance()
    ours, theirs = _origin(now), _origin(before)
    if ours != theirs:
        raise SystemExit(
            f"{file} holds results of {theirs}, and this is {ours}: one file holds one machine and one build. "
            "Write to another file or folder (see --help), or delete this one to begin anew."
        )


def _origin(about: dict[str, Any]) -> str:
    chip = about.get("processor") or {}
    name = f"{chip.get('name', 'an unknown processor')} ({chip.get('generation', 'unknown')})"
    return f"{name} with build {about.get('build') or 'unknown'}"


def where(result: dict[str, Any]) -> str:
    """What a result was measured on, for the line beside its table: "AMD EPYC (Zen 5), avx512, 2 threads"."""
    about = result["provenance"]
    chip = about["processor"]
    parts = [f"{chip['name']} ({chip['generation']})" if chip.get("generation") else chip["name"]]
    threads = about.get("threads")
    parts += [about["isa"]] if about.get("isa") else []
    parts += [f"{threads} thread{'s' * (threads > 1)}"] if threads else []
    return ", ".join(parts)


def _with_problems(result: dict[str, Any], name: str) -> dict[str, Any]:
    known, split = _problems(QUESTIONS).get(name, ({}, ""))
    if not known:
        return result

    def told(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "alike": known[row.get("split", split)]} if "answers" in row else row

    return {**result, **{key: [*map(told, result[key])] for key in ("rows", "models") if key in result}}


@cache
def _problems(file: Path) -> dict[str, tuple[dict[str, list[int]], str]]:
    """By result: the problem of each question, by split, and the split of rows that tell none."""
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    by_set = {name: {split: each["alike"] for split, each in about.items()} for name, about in found["sets"].items()}
    return {result: (by_set[about["set"]], about["split"]) for result, about in found["of"].items()}
