"""The models, written once: random weights, the same in every engine's format, and the same in every layer.

The heads of int4 are int4 too, as those of Q4_0 are 4 bits.
"""

import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.console import Console

from benchmarks.common.random_llama import DType, write_packed
from benchmarks.common.shapes import SHAPES, Shape
from benchmarks.isa.cells import CUTWORK, Cell
from benchmarks.isa.llama import Build
from benchmarks.peers.model_files import write_gguf

_CONSOLE = Console(stderr=True, highlight=False)


def shape(layers: int) -> Shape:
    """TinyLlama-1.1B's, with so many layers."""
    return replace(SHAPES["1.1b"], layers=layers)


def model_path(models: Path, layers: int, cell: Cell) -> Path:
    """Where a cell's model is kept."""
    name = cell.weights.replace(" ", "-").replace(":", "of").replace("%", "")
    return models / f"random-{layers}" / (name if cell.engine == CUTWORK else f"{name}.gguf")


def write_models(models: Path, layers: int, cells: Iterable[Cell], builds: Iterable[Build]) -> None:
    """Those that are not there yet."""
    quantize = next(filter(Path.exists, (build.program("llama-quantize") for build in builds)), None)
    for cell in cells:
        write_model(models, layers, cell, quantize)


def write_model(models: Path, layers: int, cell: Cell, quantize: Path | None) -> None:
    """Write it unless it is there. `quantize`: llama.cpp's program, for the formats that only it can write."""
    path = model_path(models, layers, cell)
    if path.exists():
        return
    _CONSOLE.print(f"writing {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if cell.engine == CUTWORK:
        dtype, zeros, *rows = cell.weights.split()
        fraction = float(zeros.removesuffix("%")) / 100 if zeros.endswith("%") else 0.0
        keep = int(zeros.split(":")[0]) if ":" in zeros else 0
        how = {"uneven": bool(rows), "layers_alike": True, "int4_head": True}
        write_packed(path, shape(layers), cast(DType, dtype), fraction, keep, **how)
    elif "_K" in cell.weights:
        _quantize(path, layers, cell.weights, quantize)
    else:
        write_gguf(path, shape(layers), cell.weights, layers_alike=True)


def _quantize(path: Path, layers: int, kind: str, program: Path | None) -> None:
    if program is None:
        raise SystemExit(f"{path.name} is written by llama-quantize: give --llama-cpp or --ik a build that has it")
    floats, partial = path.with_name("bf16.gguf"), path.with_suffix(".partial")
    if not floats.exists():
        write_gguf(floats, shape(layers), "BF16", layers_alike=True)
    subprocess.run([program, floats, partial, kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial.rename(path)
    floats.unlink()
