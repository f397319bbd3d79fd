"""Two builds of Cutwork by turns on the same models: python -m benchmarks.isa.builds BEFORE=a.whl AFTER=b.whl.

    python -m benchmarks.isa.builds 6ee8089=old.whl 3e17f01=new.whl --weights "int4 dense" "int4 4:16" --threads 1 2

A machine's bandwidth changes by half within minutes, so that builds which are measured one after the other cannot be
compared: here each round measures each cell with one build and then, at once, with the other, and what counts are the
ratios within a round. Wheels are what `pip wheel --no-deps .` makes of a clean clone; both run in this environment.
Leaves builds.json in results/.
"""

import argparse
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.common.provenance import ROOT
from benchmarks.common.results import RESULTS, save
from benchmarks.isa.cells import CUTWORK, OURS, UNEVEN, Cell, ours
from benchmarks.isa.models import model_path, write_models
from benchmarks.isa.rounds import measure_ours
from benchmarks.isa.targets import named
from benchmarks.isa.work import WHAT
from cutwork import _native


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builds", nargs=2, metavar="NAME=WHEEL", help="before and after")
    parser.add_argument("--isa", nargs="+", choices=_native.isas(), default=_native.isas()[:1])
    parser.add_argument("--weights", nargs="+", choices=(*OURS, *UNEVEN), default=["int8 dense", "int8 4:16"])
    parser.add_argument("--packed", nargs="+", metavar="NAME=DIR", help="packed models instead of random weights")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "isa", help="where models are kept")
    parser.add_argument("--output", type=Path, default=RESULTS / "builds.json")
    options = parser.parse_args()
    wheels = {name: Path(wheel) for name, _, wheel in (each.partition("=") for each in options.builds)}
    if len(wheels) != 2 or not all(map(zipfile.is_zipfile, wheels.values())):
        parser.error("give two wheels, each with a name of its own: BEFORE=a.whl AFTER=b.whl")
    if options.packed:
        own = {name: Path(path) for name, _, path in (each.rpartition("=") for each in options.packed)}
        cells = [Cell(CUTWORK, isa, name, n) for n in options.threads for name in own for isa in options.isa]
        paths = {cell: own[cell.weights] for cell in cells}
    else:
        cells = ours(options.isa, options.weights, options.threads)
        write_models(options.models, options.layers, cells, [])
        paths = {cell: model_path(options.models, options.layers, cell) for cell in cells}
    rows: list[dict[str, Any]] = [{"cell": asdict(cell), "rounds": []} for cell in cells]
    console = Console(stderr=True, highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: unpacked(wheel, Path(scratch) / str(i)) for i, (name, wheel) in enumerate(wheels.items())}
        for number in range(options.rounds):
            for cell, row in zip(cells, rows, strict=True):
                turns = list(folders.items())[:: 1 if number % 2 == 0 else -1]
                row["rounds"].append({name: speeds(folder, paths[cell], cell) for name, folder in turns})
                console.print(f"round {number + 1} of {options.rounds}, {cell}")
            content = {"builds": list(wheels), "layers": None if options.packed else options.layers, "rows": rows}
            result = save(options.output, content, threads=max(options.threads))
    print(table(result))


def unpacked(wheel: Path, folder: Path) -> Path:
    """A folder to import it from."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def speeds(build: Path, model: Path, cell: Cell) -> dict[str, float]:
    """Tokens per second of that build. Raises CellError."""
    return {name: round(value, 3) for name, value in measure_ours(model, cell, build)["speeds"].items()}


def table(result: dict[str, Any]) -> str:
    """Speeds of the later build over the earlier one's: medians of the ratios within a round, and their extremes."""
    before, after = result["builds"]
    lines = ["| threads | weights | " + " | ".join(WHAT) + " |", "|--:|---|" + "--:|" * len(WHAT)]
    for row in result["rows"]:
        cell = Cell(**row["cell"])
        texts = []
        for what in WHAT:
            ratios = [each[after][what] / each[before][what] for each in row["rounds"]]
            texts.append(f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {cell.threads} | {named(cell)} | {' | '.join(texts)} |")
    rounds = len(result["rows"][0]["rounds"])
    weights = f"{result['layers']} layers, random weights" if result["layers"] else "real weights"
    return "\n".join([*lines, "", f"{after} over {before}, {weights}, {rounds} rounds."])


if __name__ == "__main__":
    main()
