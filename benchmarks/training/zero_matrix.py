"""Are zeros ever lost? Every optimiser, with and without clipping and accumulation, in one process, with DDP and with
FSDP2, as full fine-tuning, as merged adapters, and quantised; zeros anywhere, 4:16 and adaptive.

    python -m benchmarks.training.zero_matrix             # some minutes on two cores; interrupt it, run it again

Each cell fine-tunes a tiny random Llama with zeros for a few steps with the command's own code, far too fast and with
weight decay, and counts the pruned weights that are no longer zero. A pattern whose every zero is kept holds. Leaves
zero_matrix.json in results/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_checkpoint import write_tiny_llama
from benchmarks.common.results import RESULTS, save
from benchmarks.training.mpt_path import sums
from cutwork.errors import CutworkError
from cutwork.prune.adaptive import SIDE, AdaptiveTiles
from cutwork.prune.pattern import KeepNOfM, Pattern, Unstructured
from cutwork.quantize.quantize import quantize
from cutwork.recipe import LoraSettings, Losses, QuantizeSettings, TuneSettings
from cutwork.tune.tune import tune

# accelerate shares a model among GPUs alone.
WORLDS = {"single": 1, "DDP": 2} | ({"FSDP2": 2} if torch.cuda.is_available() else {})
OPTIMISERS = {"AdamW": "adamw_torch", "Adam": "adam", "SGD": "sgd", "Adafactor": "adafactor", "Muon": "muon"}
PATTERNS: dict[str, Pattern] = {"60%": Unstructured(0.6), "4:16": KeepNOfM(4, 16), "adaptive": AdaptiveTiles(0.75)}
WAYS = ("full", "LoRA merge", "RTN", "GPTQ", "QAT")
BATCH = 8


class Training(NamedTuple):
    """How a model is fine-tuned, and which."""

    pattern: str
    optimiser: str
    clip: bool
    accumulation: int


def trainings(optimisers: list[str]) -> list[Training]:
    """All there are of zeros anywhere, one of each pattern: a mask is of single weights, whatever pattern they make."""
    every = [Training(*each) for each in product(PATTERNS, optimisers, (True, False), (1, 4))]
    return [each for each in every if each.pattern == "60%" or (each.clip and each.accumulation == 4)]


def sparse_model(work: Path, pattern: str) -> Path:
    """Where the model with a pattern of zeros is."""
    return work / f"sparse-{pattern.replace(':', '-')}"


def write_models(work: Path) -> None:
    """A dense model, the teacher, and one for each pattern, with zeros at random in the linears of its blocks."""
    if not (work / "dense").exists():
        write_tiny_llama(work / "dense.partial")
        (work / "dense.partial").rename(work / "dense")
    for name, pattern in PATTERNS.items():
        if sparse_model(work, name).exists():
            continue
        partial = work / "sparse.partial"
        shutil.copytree(work / "dense", partial, dirs_exist_ok=True)
        draw = torch.Generator().manual_seed(0)
        weights = load_file(partial / "model.safetensors")
        for weight in (weight for linear, weight in weights.items() if "proj" in linear):
            tiles = torch.rand(weight.shape[0] // SIDE, weight.shape[1] // SIDE, generator=draw)
            costs = torch.rand(weight.shape, generator=draw) * tiles.kron(torch.ones(SIDE, SIDE))
            weight.mul_(pattern.keep(costs, weight != 0))
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        partial.rename(sparse_model(work, name))


def settings_of(training: Training, processes: int) -> TuneSettings:
    return TuneSettings(
        max_steps=3,
        batch_size=BATCH,
        micro_batch_size=BATCH // (training.accumulation * processes),
        max_grad_norm=0.3 if training.clip else 0,
        optimizer=OPTIMISERS[training.optimiser],
        learning_rate=1e-2,
        weight_decay=0.1,
        warmup_steps=0,
        schedule="constant",
        dtype="float32",
        losses=Losses(squarehead=1.0),
        save_every=1000,
    )


def lost(sparse: Path, result: Path) -> dict[str, float]:
    """Zeros of one checkpoint that are not zeros of another, and the share of the other weights that changed."""
    before, after = load_file(sparse / "model.safetensors"), load_file(result / "model.safetensors")
    names = [name for name in before if "proj" in name]
    zeros = gone = live = moved = 0
    for name in names:
        pruned = before[name] == 0
        zeros += int(pruned.sum())
        gone += int((after[name][pruned] != 0).sum())
        live += int((~pruned).sum())
        moved += int((after[name][~pruned].float() != before[name][~pruned]).sum())
    return {"zeros": zeros, "lost": gone, "moved": moved / live}


def cells(world: str, training: Training, work: Path) -> Iterator[Any]:
    """Measure the cells of one training, in every process of its world; yields them in the first."""
    first = int(os.environ.get("RANK", "0")) == 0
    quiet, samples = Console(quiet=True), sums(50, 0, 0).train[:24]
    about = {"world": world, **training._asdict()}
    settings, sparse = settings_of(training, WORLDS[world]), sparse_model(work, training.pattern)
    output = work / f"{world}-{sparse.name}-{training.optimiser}-{training.clip}-{training.accumulation}"
    common: dict[str, Any] = {"max_length": 64, "console": quiet}
    for way in ("full", "LoRA merge"):
        tuned = output.with_name(f"{output.name}-{way.split()[0].lower()}")
        chosen = settings.model_copy(update={"lora": LoraSettings(rank=4)}) if way != "full" else settings
        try:
            options = {**common, "teacher_dir": work / "dense", "fsdp": world == "FSDP2", "overwrite": True}
            tune(sparse, tuned, chosen, samples, **options)
        except CutworkError as error:
            if first:
                yield {**about, "way": way, "error": str(error)}
            continue
        if first:
            yield {**about, "way": way, **lost(sparse, tuned)}
    if first:
        for way, method in (("RTN", "rtn"), ("GPTQ", "gptq")):
            coded = output.with_name(f"{output.name}-{method}")
            how = QuantizeSettings(method=method, calibration_samples=8)
            quantize(output.with_name(f"{output.name}-full"), coded, how, samples, overwrite=True, **common)
            yield {**about, "way": way, **lost(sparse, coded)}
    if world == "single":  # which is all it trains in
        coded = output.with_name(f"{output.name}-qat")
        how = QuantizeSettings(method="qat", qat=settings)
        quantize(sparse, coded, how, samples, overwrite=True, **common)
        yield {**about, "way": "QAT", **lost(sparse, coded)}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one cell from all others."""
    return row["world"], *(row[field] for field in Training._fields), row["way"]


def read_cells(file: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The measured cells of a file by their key, each once."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {key(row): row for row in map(json.loads, lines)}


def measure_missing(world: str, optimisers: list[str], work: Path) -> None:
    """Add to the file of one world what it does not have, and nothing else."""
    file = work / f"{world}.jsonl"
    done = read_cells(file)  # every process reads it before the first one adds to it
    ways = WAYS if world == "single" else WAYS[:-1]  # QAT trains in one process only
    for training in trainings(optimisers):
        if all((world, *training, way) in done for way in ways):
            continue
        rows = [row for row in cells(world, training, work) if key(row) not in done]
        if rows:
            with file.open("a") as lines:
                lines.write("".join(json.dumps(row) + "\n" for row in rows))


def launch(world: str, work: Path, optimisers: list[str]) -> list[dict[str, Any]]:
    """All cells of one world, from its file if they are there already."""
    file = work / f"{world}.jsonl"
    command = ["-m", "benchmarks.training.zero_matrix", "--world", world]
    command += ["--work", str(work), "--optimiser", *optimisers]
    if WORLDS[world] > 1:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLDS[world]), *command]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)
    return list(read_cells(file).values())


def table(result: dict[str, Any]) -> str:
    """Zeros lost, of all clips and accumulations together; a dash where nothing was measured."""
    rows = [row for row in result["cells"] if "lost" in row]
    lines = ["| processes | zeros | optimiser | " + " | ".join(WAYS) + " |", "|---|---|---|" + "--:|" * len(WAYS)]
    for which in dict.fromkeys(_line(row) for row in rows):
        lost = [[row["lost"] for row in rows if _line(row) == which and row["way"] == way] for way in WAYS]
        cells = [f"{sum(each)} in {len(each)}" if each else "–" for each in lost]
        lines.append(f"| {' | '.join((*which, *cells))} |")
    zeros, gone = min(row["zeros"] for row in rows), sum(row["lost"] for row in rows)
    moved = min(row["moved"] for row in rows if row["way"] == "full")
    refused = len(result["cells"]) - len(rows)
    lines += ["", f"{gone} zeros lost in {len(rows)} cells, each of {zeros:,} or more; {refused} cells were refused."]
    lines[-1] += f" In every full fine-tuning at least {moved:.0%} of the other weights moved."
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["world"], row["pattern"], row["optimiser"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, help="measure these cells in this process (used by torchrun)")
    parser.add_argument("--optimiser", choices=OPTIMISERS, nargs="+", default=list(OPTIMISERS))
    parser.add_argument("--work", type=Path, default=Path("out/zero-matrix"), help="where models and cells are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.world:
        measure_missing(options.world, options.optimiser, options.work)
        return
    write_models(options.work)
    rows = [row for world in WORLDS for row in launch(world, options.work, options.optimiser)]
    print(table(save(options.results / "zero_matrix.json", {"cells": rows}, compact=True)))


if __name__ == "__main__":
    main()
