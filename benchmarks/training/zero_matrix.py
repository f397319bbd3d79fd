"""Are zeros ever lost? Every optimiser, with and without clipping and accumulation, in one process, with DDP and with
FSDP2, as full fine-tuning, as merged adapters, and quantised.

    python -m benchmarks.training.zero_matrix             # some minutes on two cores; interrupt it, run it again

Each cell fine-tunes a tiny random Llama of 60% zeros for a few steps with the command's own code, far too fast and with
weight decay, and counts the pruned weights that are no longer zero. Leaves zero_matrix.json in results/.
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
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmarks.common.provenance import ROOT
from benchmarks.common.random_checkpoint import write_tiny_llama
from benchmarks.common.results import RESULTS, save
from benchmarks.training.mpt_path import sums
from cutwork.errors import CutworkError
from cutwork.quantize.quantize import quantize
from cutwork.recipe import LoraSettings, Losses, QuantizeSettings, TuneSettings
from cutwork.tune.tune import tune

# accelerate shares a model among GPUs alone.
WORLDS = {"single": 1, "DDP": 2} | ({"FSDP2": 2} if torch.cuda.is_available() else {})
OPTIMISERS = {"AdamW": "adamw_torch", "Adam": "adam", "SGD": "sgd", "Adafactor": "adafactor", "Muon": "muon"}
WAYS = ("full", "LoRA merge", "RTN", "GPTQ", "QAT")
BATCH = 8


def write_models(work: Path) -> None:
    """A dense model, the teacher, and one with 60% zeros in the linears of its blocks."""
    if (work / "sparse").exists():
        return
    write_tiny_llama(work / "dense")
    partial = work / "sparse.partial"
    shutil.copytree(work / "dense", partial, dirs_exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    weights = load_file(partial / "model.safetensors")
    for name, weight in weights.items():
        if "proj" in name:
            weight[torch.rand(weight.shape, generator=draw) < 0.6] = 0
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    partial.rename(work / "sparse")


def settings_of(optimiser: str, clip: bool, accumulation: int, processes: int) -> TuneSettings:
    return TuneSettings(
        max_steps=3,
        batch_size=BATCH,
        micro_batch_size=BATCH // (accumulation * processes),
        max_grad_norm=0.3 if clip else 0,
        optimizer=OPTIMISERS[optimiser],
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


def cells(world: str, optimisers: list[str], clips: list[bool], accumulations: list[int], work: Path) -> Iterator[Any]:
    """Measure the cells of one world, in every process of it; yields them in the first."""
    first = int(os.environ.get("RANK", "0")) == 0
    quiet, samples = Console(quiet=True), sums(50, 0, 0).train[:24]
    for optimiser, clip, accumulation in product(optimisers, clips, accumulations):
        about = {"world": world, "optimiser": optimiser, "clip": clip, "accumulation": accumulation}
        settings = settings_of(optimiser, clip, accumulation, WORLDS[world])
        output = work / f"{world}-{optimiser}-{clip}-{accumulation}"
        common: dict[str, Any] = {"max_length": 64, "console": quiet}
        for way in ("full", "LoRA merge"):
            tuned = output.with_name(f"{output.name}-{way.split()[0].lower()}")
            chosen = settings.model_copy(update={"lora": LoraSettings(rank=4)}) if way != "full" else settings
            try:
                options = {**common, "teacher_dir": work / "dense", "fsdp": world == "FSDP2", "overwrite": True}
                tune(work / "sparse", tuned, chosen, samples, **options)
            except CutworkError as error:
                if first:
                    yield {**about, "way": way, "error": str(error)}
                continue
            if first:
                yield {**about, "way": way, **lost(work / "sparse", tuned)}
        if first:
            for way, method in (("RTN", "rtn"), ("GPTQ", "gptq")):
                coded = output.with_name(f"{output.name}-{method}")
                how = QuantizeSettings(method=method, calibration_samples=8)
                quantize(output.with_name(f"{output.name}-full"), coded, how, samples, overwrite=True, **common)
                yield {**about, "way": way, **lost(work / "sparse", coded)}
        if world == "single":  # which is all it trains in
            coded = output.with_name(f"{output.name}-qat")
            how = QuantizeSettings(method="qat", qat=settings)
            quantize(work / "sparse", coded, how, samples, overwrite=True, **common)
            yield {**about, "way": "QAT", **lost(work / "sparse", coded)}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells one cell from all others."""
    return row["world"], *_of(row), row["way"]


def read_cells(file: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The measured cells of a file by their key, each once."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {key(row): row for row in map(json.loads, lines)}


def measure_missing(world: str, optimisers: list[str], work: Path) -> None:
    """Add to the file of one world what it does not have, and nothing else."""
    file = work / f"{world}.jsonl"
    done = read_cells(file)  # every process reads it before the first one adds to it
    ways = WAYS if world == "single" else WAYS[:-1]  # QAT trains in one process only
    for optimiser, clip, accumulation in product(optimisers, (True, False), (1, 4)):
        if all((world, optimiser, clip, accumulation, way) in done for way in ways):
            continue
        rows = [row for row in cells(world, [optimiser], [clip], [accumulation], work) if key(row) not in done]
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
    lines = ["| processes | optimiser | " + " | ".join(WAYS) + " |", "|---|---|" + "--:|" * len(WAYS)]
    for world, optimiser in dict.fromkeys((row["world"], row["optimiser"]) for row in rows):
        mine = [row for row in rows if (row["world"], row["optimiser"]) == (world, optimiser)]
        lost = [[row["lost"] for row in mine if row["way"] == way] for way in WAYS]
        cells = [f"{sum(each)} in {len(each)}" if each else "–" for each in lost]
        lines.append(f"| {world} | {optimiser} | " + " | ".join(cells) + " |")
    zeros, gone = rows[0]["zeros"], sum(row["lost"] for row in rows)
    moved = min(row["moved"] for row in rows if row["way"] == "full")
    refused = len(result["cells"]) - len(rows)
    lines += ["", f"{gone} zeros lost in {len(rows)} cells, each of {zeros:,} zeros; {refused} cells were refused."]
    lines[-1] += f" In every full fine-tuning at least {moved:.0%} of the other weights moved."
    return "\n".join(lines)


def _of(row: dict[str, Any]) -> tuple[str, bool, int]:
    return row["optimiser"], row["clip"], row["accumulation"]


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
