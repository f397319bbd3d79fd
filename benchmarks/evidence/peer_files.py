"""A dense model's files for the peers: llama.cpp's of several kinds, and OpenVINO's in int4.

Both see the samples that our own int4 is calibrated with, where they are given: llama.cpp by an importance matrix,
OpenVINO by AWQ and scale estimation.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.peers.environments import ENVIRONMENTS, WORKERS, python_of
from benchmarks.peers.importance import write_importance
from benchmarks.peers.model_files import convert
from cutwork.prune.calibrate import calibration_examples
from cutwork.recipe import Recipe
from cutwork.store.output import output_directory
from cutwork.tasks.task import Sample
from cutwork.torch_models.load import load_tokenizer
from cutwork.torch_models.model_inputs import Example

LLAMA, OPENVINO = "llama.cpp", "OpenVINO"
_HEAD = ", head too"  # of a kind: embeddings and output head in its type as well, where llama.cpp would take more bits


def calibration(recipe: Recipe, checkpoint: Path, samples: Sequence[Sample]) -> Sequence[Example]:
    """What our own int4 of a checkpoint is calibrated with."""
    assert recipe.quantize
    settings, tokenizer = recipe.quantize, load_tokenizer(checkpoint)
    return calibration_examples(tokenizer, samples, settings.calibration_samples, recipe.task.max_length, settings.seed)


def gguf_files(
    checkpoint: Path, kinds: Sequence[str], data: Sequence[Example], folder: Path, console: Console
) -> list[dict[str, Any]]:
    """llama.cpp's files of these kinds ("Q4_0", "Q4_0, head too") in a folder, those made that are missing; with an
    importance matrix if there are data."""
    _install("llama")
    folder.mkdir(parents=True, exist_ok=True)
    whole, importance = folder / "f32.gguf", folder / "importance.npz"
    if data and not importance.exists():
        write_importance(checkpoint, data, importance, console)
    found = []
    for kind in kinds:
        name = kind.replace(_HEAD, "-head")
        file = folder / (f"{name}-importance.gguf" if data else f"{name}.gguf")
        if not file.exists():
            if not whole.exists():
                convert(checkpoint, whole)
            console.print(f"llama.cpp quantises {checkpoint.name} to {kind}", highlight=False)
            made = file.with_suffix(".partial")
            script = [python_of("llama"), str(WORKERS / "llama_cpp_quantize.py"), str(whole), str(made)]
            script += [kind.removesuffix(_HEAD), *(["--head"] if kind.endswith(_HEAD) else [])]
            script += ["--importance", str(importance)] if data else []
            subprocess.run(script, check=True, capture_output=True)
            made.rename(file)
        found.append({"engine": LLAMA, "weights": kind, "zeros": 0.0, "file": str(file)})
    return found


def openvino_file(checkpoint: Path, data: Sequence[Example], folder: Path, console: Console) -> dict[str, Any]:
    """OpenVINO's int4 in a folder, made if it is missing."""
    _install("openvino")
    model = folder / "openvino-int4"
    if not model.exists():
        _install("converters")
        console.print(f"OpenVINO quantises {checkpoint.name} to int4", highlight=False)
        folder.mkdir(parents=True, exist_ok=True)
        texts = folder / "texts.json"
        texts.write_text(json.dumps(load_tokenizer(checkpoint).batch_decode([each["input_ids"] for each in data])))
        with output_directory(model) as partial, (folder / "openvino.log").open("w") as log:
            script = [python_of("converters"), str(WORKERS / "openvino_quantize.py")]
            subprocess.run([*script, str(checkpoint), str(partial), str(texts)], check=True, stdout=log, stderr=log)
    return {"engine": OPENVINO, "weights": "int4", "zeros": 0.0, "file": str(model)}


def _install(environment: str) -> None:
    if error := ENVIRONMENTS[environment].install():
        raise SystemExit(error)
