"""Each peer in its own virtual environment under build/peers, made on the first call and left alone afterwards."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKERS = Path(__file__).resolve().parent / "workers"
PEERS = ROOT / "build" / "peers"


@dataclass(frozen=True)
class Environment:
    """Pinned packages; `variables` steer a build from source."""

    name: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return PEERS / self.name

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    @property
    def log(self) -> Path:
        return PEERS / f"{self.name}.log"

    @property
    def ready(self) -> bool:
        """Whether these very packages were installed."""
        marker = self.home / "ready"
        return marker.exists() and marker.read_text() == self._contents

    def install(self) -> str | None:
        """Install unless ready; why it cannot be, or None. An interrupted installation starts anew."""
        if self.ready:
            return None
        if not (self.home / "bin" / "pip").exists():
            shutil.rmtree(self.home, ignore_errors=True)
            venv.create(self.home, with_pip=True)
        command = [str(self.python), "-m", "pip", "install", *self.options, *self.packages]
        with self.log.open("w") as log:
            failed = subprocess.run(
                command, stdout=log, stderr=log, env=os.environ | self.variables, check=False
            ).returncode
        if failed:
            errors = [line for line in self.log.read_text().splitlines() if "ERROR" in line or "error:" in line]
            return f"pip install {' '.join(self.packages)} failed: {(errors or ['see ' + str(self.log)])[-1].strip()}"
        (self.home / "ready").write_text(self._contents)
        return None

    @property
    def _contents(self) -> str:
        return "\n".join([*self.packages, *self.options, *(f"{k}={v}" for k, v in self.variables.items())]) + "\n"


_LLAMA_CPP = ("llama-cpp-python==0.3.36", "numpy")
_FROM_SOURCE = ("--no-cache-dir", "--no-binary", "llama-cpp-python")
_AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF"

ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("llama", _LLAMA_CPP, _FROM_SOURCE, {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}),
        Environment("llama-avx2", _LLAMA_CPP, _FROM_SOURCE, {"CMAKE_ARGS": _AVX2}),
        Environment("ctranslate2", ("ctranslate2==4.8.5", "numpy")),
        Environment("openvino", ("openvino==2026.4.1", "openvino-genai==2026.4.1", "numpy")),
        Environment("onnxruntime-genai", ("onnxruntime-genai==0.18.0", "onnxruntime==1.32.0", "onnx", "numpy")),
        Environment("torch", ("torch==2.13.0", "transformers==5.24.0", "numpy")),
        Environment("deepsparse", ("deepsparse==1.8.0",)),
        Environment(
            "converters",
            (
                "optimum-intel==2.2.0",
                "openvino==2026.4.1",
                "nncf==3.4.0",
                "torch==2.13.0",
                "ctranslate2==4.8.5",
                "onnxruntime-genai==0.18.0",
                "onnxruntime==1.32.0",
                "onnx",
                "onnx_ir",
            ),
        ),
    )
}


def python_of(environment: str | None) -> str:
    """The interpreter of an environment; None is Cutwork's own."""
    return str(ENVIRONMENTS[environment].python) if environment else sys.executable
