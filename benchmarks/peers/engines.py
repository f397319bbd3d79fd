"""What is compared: an engine, its weights, where it runs, and how its model file is made."""

import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import random_llama
from benchmarks.common.shapes import Shape
from benchmarks.peers import model_files
from benchmarks.peers.environments import ENVIRONMENTS, PEERS
from cutwork.store.output import output_directory

INT8_SPARSITIES = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
INT4_SPARSITIES = (0.0, 0.5, 0.6, 0.75)


class ConversionError(Exception):
    """A model could not be converted; the message says why."""


@dataclass(frozen=True)
class Engine:
    """One thing that generates tokens. `prefill` and `decode` are rough tokens/s of one core at 1.1B, to plan with."""

    name: str
    family: str
    weights: str
    worker: str
    environment: str | None
    model: str  # file or directory name
    write: Callable[[Path, Shape], None]
    prefill: float
    decode: float
    sparsity: float = 0.0
    isa: str = "native"
    agreement: float = 0.95  # least correlation of its logits with the reference
    reorder_weights: bool = False

    def path(self, shape: Shape) -> Path:
        return PEERS / "models" / shape.name / self.model

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        if self.weights == "int4" and self.family == "cutwork":
            missing = importlib.util.find_spec("cutwork.pack.int4") is None
            return "this version of cutwork has no int4 weights" if missing else None
        return None


def _cutwork(bits: int, sparsity: float, isa: str = "native", reorder_weights: bool = False) -> Engine:
    slow = {"native": (1.0, 1.0), "avx2": (0.3, 0.7), "scalar": (0.01, 0.05)}[isa]
    return Engine(
        name=f"cutwork int{bits} {sparsity:.0%}" + ("" if isa == "native" else f" {isa}") + " ahead" * reorder_weights,
        family="cutwork",
        weights=f"int{bits}",
        worker="cutwork_worker.py",
        environment=None,
        model=f"packed-int{bits}-{sparsity:.0%}".replace("%", ""),
        write=lambda path, shape: random_llama.write_packed(path, shape, f"int{bits}", sparsity),
        prefill=400 * slow[0],
        decode=(35 + 55 * sparsity) * slow[1],
        sparsity=sparsity,
        isa=isa,
        agreement=0.95 if bits == 8 else 0.7,
        reorder_weights=reorder_weights,
    )


def _llama_cpp(kind: str, prefill: float, decode: float, avx2: bool = False) -> Engine:
    return Engine(
        name=f"llama.cpp {kind}" + (" avx2" if avx2 else ""),
        family="llama.cpp",
        weights=kind,
        worker="llama_cpp_worker.py",
        environment="llama-avx2" if avx2 else "llama",
        model=f"{kind.lower()}.gguf",
        write=lambda path, shape: model_files.write_gguf(path, shape, kind),
        prefill=prefill,
        decode=decode,
        isa="avx2" if avx2 else "native",
        agreement=0.7 if kind == "Q4_0" else 0.95,
    )


def checkpoint_of(shape: Shape) -> Path:
    """The Hugging Face directory that converters read."""
    path = PEERS / "models" / shape.name / "checkpoint"
    if not path.exists():
        random_llama.write_checkpoint(path, shape)
    return path


def _convert(command: Sequence[str], path: Path, shape: Shape) -> None:
    """Run a converter of the `converters` environment; CHECKPOINT and OUTPUT in the command stand for directories."""
    if error := ENVIRONMENTS["converters"].install():
        raise ConversionError(error)
    binaries = ENVIRONMENTS["converters"].home / "bin"
    log = path.with_suffix(".log")
    with output_directory(path) as partial:
        places = {"CHECKPOINT": str(checkpoint_of(shape)), "OUTPUT": str(partial / "model")}
        program, *arguments = [places.get(part, part) for part in command]
        with log.open("w") as file:
            done = subprocess.run([str(binaries / program), *arguments], stdout=file, stderr=file, check=False)
        if done.returncode:
            last = [line.strip() for line in log.read_text().splitlines() if line.strip()]
            raise ConversionError(f"{command[0]} failed: {last[-1] if last else log}")


def _converted(command: str) -> Callable[[Path, Shape], None]:
    return lambda path, shape: _convert(command.split(), path, shape)


_OPTIMUM = "optimum-cli export openvino --model CHECKPOINT --task text-generation-with-past OUTPUT --weight-format "
_CT2 = "ct2-transformers-converter --model CHECKPOINT --output_dir OUTPUT --quantization int8 --low_cpu_mem_usage"
_GENAI = "python -m onnxruntime_genai.models.builder -i CHECKPOINT -o OUTPUT -p int4 -e cpu -c /tmp"

ENGINES = {
    engine.name: engine
    for engine in (
        *(_cutwork(8, sparsity) for sparsity in INT8_SPARSITIES),
        *(_cutwork(8, sparsity, reorder_weights=True) for sparsity in (0.5, 0.75, 0.9)),
        *(_cutwork(4, sparsity) for sparsity in INT4_SPARSITIES),
        _llama_cpp("Q8_0", 74, 22),
        _llama_cpp("Q4_0", 140, 36),
        _llama_cpp("BF16", 110, 18),
        Engine(
            "OpenVINO int8", "OpenVINO", "int8", "openvino_worker.py", "openvino", "openvino-int8",
            _converted(_OPTIMUM + "int8"), 260, 24,
        ),
        Engine(
            "OpenVINO int4", "OpenVINO", "int4", "openvino_worker.py", "openvino", "openvino-int4",
            _converted(_OPTIMUM + "int4 --group-size 128 --ratio 1.0 --sym"), 255, 23, agreement=0.7,
        ),
        Engine(
            "CTranslate2 int8", "CTranslate2", "int8", "ctranslate2_worker.py", "ctranslate2", "ctranslate2-int8",
            _converted(_CT2), 285, 9,
        ),
        Engine(
            "onnxruntime-genai int4", "onnxruntime-genai", "int4", "onnxruntime_genai_worker.py", "onnxruntime-genai",
            "onnxruntime-int4", _converted(_GENAI), 80, 33, agreement=0.7,
        ),
        Engine(
            "torch bf16", "torch", "bf16", "torch_worker.py", "torch", "checkpoint",
            random_llama.write_checkpoint, 130, 6, agreement=0.98,
        ),
        *(_cutwork(8, sparsity, "avx2") for sparsity in (0.0, 0.5, 0.75, 0.9)),
        *(_cutwork(8, sparsity, "scalar") for sparsity in (0.0, 0.75)),
        _llama_cpp("Q8_0", 50, 25, avx2=True),
        _llama_cpp("Q4_0", 70, 35, avx2=True),
    )
}  # fmt: skip


def write_model(engine: Engine, shape: Shape) -> Path:
    """The engine's model of this shape, made now if it is not there. Raises ConversionError."""
    path = engine.path(shape)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        engine.write(path, shape)
    nested = path / "model"
    return nested if nested.exists() else path
