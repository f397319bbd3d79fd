"""What is compared: an encoder in int8 with more and more zeros, and what the other engines make of the dense one.

Zeros by magnitude, which is enough for speed; `--sparse 80=DIR` takes a trained model instead.
"""

import subprocess
from pathlib import Path

from rich.console import Console

from benchmarks.peers.environments import Environment
from cutwork.pack.pack import pack
from cutwork.prune.prune import prune
from cutwork.quantize.quantize import quantize
from cutwork.recipe import PruneSettings, QuantizeSettings

PATTERNS = {"0%": None, "80%": 0.8, "90%": 0.9, "4:16": "4:16"}
PEER = Environment(
    "encoders",
    (
        "onnxruntime==1.32.0",
        "onnx",
        "onnxscript",
        "openvino==2026.4.1",
        "nncf==3.4.0",
        "torch==2.13.0",
        "transformers==5.24.0",
        "numpy",
    ),
)
EXPORT = Path(__file__).with_name("export.py")


def packed(model: Path, work: Path, trained: dict[str, Path], console: Console) -> dict[str, Path]:
    """Packed int8 models by how many zeros they have, made once."""
    found = {}
    for name, pattern in PATTERNS.items():
        found[name] = work / f"packed-{name.strip('%').replace(':', 'of')}"
        if found[name].exists():
            continue
        source = trained.get(name, model)
        if pattern is not None and name not in trained:
            source = work / f"pruned-{name.strip('%').replace(':', 'of')}"
            fixed = {"pattern": pattern} if isinstance(pattern, str) else {"sparsity": pattern}
            settings = PruneSettings.model_validate({"method": "magnitude", **fixed})
            prune(model, source, settings, overwrite=True, console=console)
        quantized = work / f"quantized-{found[name].name}"
        quantize(source, quantized, QuantizeSettings(method="rtn"), overwrite=True, console=console)
        pack(quantized, found[name], head="i8")
    return found


def exported(model: Path, work: Path, python: str) -> tuple[Path, Path]:
    """The model for ONNX Runtime and for OpenVINO, in int8, made once in the peers' own environment."""
    files = work / "model-int8.onnx", work / "openvino-int8" / "model.xml"
    if not all(file.exists() for file in files):
        subprocess.run([python, str(EXPORT), str(model), str(work)], check=True)
    return files
