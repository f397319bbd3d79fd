"""Model directories: which kind one is, where to get it, and how a new one appears atomically. No torch here."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cutwork import legacy
from cutwork.errors import CutworkError

Kind = Literal["checkpoint", "quantized", "packed"]

PACKED = "cutwork.json"
READABLE_FORMATS = ("int-quantized", "pack-quantized")  # of compressed-tensors

_SIDE_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "normalizer.json",
    "*.spm",
    "*.model",
    "LICENSE*",
)

# What a directory without safetensors may hold instead, and what its owner can do about it.
_FOREIGN = {
    "*.gguf": "GGUF; use the Hugging Face checkpoint it was made from",
    "pytorch_model*.bin": (
        "pickled weights, which can run code; convert them once with transformers: "
        "AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
    ),
    "*.pt": "pickled weights, which can run code; use the model's safetensors version",
    "*.pth": "pickled weights, which can run code; use the model's safetensors version",
    "*.onnx": "ONNX; use the Hugging Face checkpoint it was exported from",
    "onnx/*.onnx": "ONNX; use the Hugging Face checkpoint it was exported from",
    "openvino_model.xml": "OpenVINO; use the Hugging Face checkpoint it was exported from",
    "tf_model.h5": "TensorFlow; use the model's safetensors version",
    "flax_model.msgpack": "Flax; use the model's safetensors version",
}


def kind(path: Path) -> Kind:
    """Which of the three kinds of model directory `path` is.

    Raises CutworkError, naming the format and what to do, for anything that cannot be read.
    """
    if not path.exists():
        raise CutworkError(f"no model directory at {path}")
    if path.is_file():
        _refuse_foreign(path.parent, [path.name])
        raise CutworkError(f"{path} is a file; give the model's directory")
    if (path / PACKED).is_file():
        return "packed"
    if (path / "adapter_config.json").is_file():
        raise CutworkError(f"{path} holds a LoRA adapter; merge it into its base model first (peft: merge_and_unload)")
    if not any(path.glob("*.safetensors")):
        _refuse_foreign(path, list(_FOREIGN))
        raise CutworkError(f"{path} is not a model directory: no *.safetensors in it")
    config = read_json(path / "config.json")
    quantization = config.get("quantization_config", config.get("compression_config"))
    if quantization is not None:
        _refuse_unreadable(path, quantization)
    return "quantized" if "quantization_config" in legacy.plain_config(config) else "checkpoint"


def resolve(name_or_path: str | Path) -> Path:
    """The local directory of a model: a path, a name that `cutwork.pretrained` knows, or a Hub name (downloaded).

    Only weights in safetensors, JSON and tokenizer files are downloaded. Raises CutworkError if there is no such model
    or the Hub cannot be reached.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    from cutwork import pretrained

    name = str(name_or_path)
    if name in pretrained.NAMES:
        return Path(pretrained.fetch(name))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise CutworkError(f"no model directory at {path}")
    return _download(name)


def read_config(path: Path) -> dict[str, Any]:
    """The Hugging Face configuration of a model directory of any kind, without a `sparsity_config`."""
    if (path / PACKED).is_file():
        config = read_json(path / PACKED).get("config")
        if not isinstance(config, dict):
            raise CutworkError(f"{path / PACKED} has no 'config'; pack the model again")
        return config
    return legacy.plain_config(read_json(path / "config.json"))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or CutworkError."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CutworkError(f"{path} is missing; the model directory is incomplete") from None
    except (ValueError, RecursionError) as error:
        raise CutworkError(f"{path} is not valid JSON ({error}); get the file again") from None
    if not isinstance(data, dict):
        raise CutworkError(f"{path} must hold a JSON object")
    return data


@contextmanager
def output_directory(destination: Path, overwrite: bool = False, *, source: Path | None = None) -> Iterator[Path]:
    """A fresh directory to write into that becomes `destination` when the block ends, and vanishes if it raises.

    Only an empty directory is replaced, or with `overwrite` another model directory, but never one that holds
    `source`. What killed processes left behind is removed. Raises CutworkError if the destination is taken or its
    disk is full.
    """
    destination = Path(os.path.abspath(destination.expanduser()))
    if source and source.resolve().is_relative_to(destination.resolve()):
        raise CutworkError(f"{destination} holds the model to read; choose another output directory")
    partial = destination.with_name(f".{destination.name}.partial-{os.getpid()}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _clean_up_after_the_dead(destination)
        _check_free(destination, overwrite)
        partial.mkdir()
    except OSError as error:
        raise CutworkError(f"cannot write {destination}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield partial
        _check_free(destination, overwrite)
        _replace(destination, partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if _disk_full(error):
            raise CutworkError(
                f"the disk became full while writing {destination}; nothing was kept, free some space and run again"
            ) from None
        raise


def copy_side_files(source: Path, destination: Path) -> list[str]:
    """Copy the tokenizer, generation and licence files that belong to a model, except those already there.

    Returns the names of the files copied.
    """
    names = sorted({file.name for pattern in _SIDE_FILES for file in source.glob(pattern) if file.is_file()})
    copied = [name for name in names if not (destination / name).exists()]
    for name in copied:
        shutil.copyfile(source / name, destination / name)
    return copied


def _refuse_foreign(directory: Path, patterns: list[str]) -> None:
    for pattern in patterns:
        found = next(directory.glob(pattern), None)
        if found:
            advice = next((text for known, text in _FOREIGN.items() if found.match(known)), None)
            if advice:
                raise CutworkError(f"cannot read {found}: it is {advice}")


def _refuse_unreadable(path: Path, quantization: Any) -> None:
    """Raise CutworkError unless a `quantization_config` describes a format that we read."""
    if not isinstance(quantization, dict):
        raise CutworkError(f"{path / 'config.json'}: quantization_config must be an object")
    method = quantization.get("quant_method", "compressed-tensors")
    if method != "compressed-tensors":
        raise CutworkError(
            f"{path} is quantised by '{method}', which cutwork cannot read; "
            "use the unquantised checkpoint and run: cutwork quantize"
        )
    if (quantization.get("transform_config") or {}).get("config_groups"):
        raise CutworkError(
            f"{path} rotates its activations (transform_config), which cutwork cannot run; "
            "use the unquantised checkpoint and run: cutwork quantize"
        )
    sparsity = quantization.get("sparsity_config") or {}
    groups = quantization.get("config_groups") or {}
    layouts = [group.get("format") for group in groups.values() if isinstance(group, dict)]
    readable = ("dense", *legacy.FORMATS, *READABLE_FORMATS)
    for name in [sparsity.get("format", "dense"), quantization.get("format", "dense"), *filter(None, layouts)]:
        if name in readable or (name == "mixed-precision" and layouts):
            continue
        advice = {"marlin-24": "use the checkpoint it was made from"}.get(
            name, "use the unquantised checkpoint and run: cutwork quantize"
        )
        raise CutworkError(f"{path} is stored as '{name}' (compressed-tensors), which cutwork cannot read; {advice}")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.spm", "LICENSE*"],
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except GatedRepoError:
        raise CutworkError(
            f"'{name}' needs its owner's permission; ask for it on the Hub, then: hf auth login"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise CutworkError(f"'{name}' is neither a local directory nor a model on the Hugging Face Hub") from None
    except Exception as error:  # the client's transports raise errors of several libraries
        if _disk_full(error):
            raise CutworkError(f"the disk is full, so '{name}' was not downloaded; free some space") from None
        raise CutworkError(
            f"there is no directory '{name}', and the Hugging Face Hub could not be reached to look for it "
            f"({type(error).__name__}); check the path or the network"
        ) from None


def _check_free(destination: Path, overwrite: bool) -> None:
    if not destination.exists():
        return
    if not destination.is_dir():
        raise CutworkError(f"{destination} is a file; choose another output directory")
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise CutworkError(f"{destination} already exists; choose another output directory or pass --overwrite")
    if not any((destination / name).is_file() for name in (PACKED, "config.json")):
        raise CutworkError(f"{destination} is not a model directory, so it is not replaced; remove it yourself")


def _replace(destination: Path, partial: Path) -> None:
    """Move `partial` to `destination`; a process killed in between leaves the old one for the next to restore."""
    retired = destination.with_name(f".{destination.name}.retired-{os.getpid()}")
    if destination.exists():
        destination.rename(retired)
    try:
        partial.rename(destination)
    except BaseException:
        if retired.exists():
            retired.rename(destination)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _clean_up_after_the_dead(destination: Path) -> None:
    for leftover in destination.parent.iterdir():
        match = re.fullmatch(rf"\.{re.escape(destination.name)}\.(partial|retired)-(\d+)", leftover.name)
        if match is None or _alive(int(match[2])):
            continue
        if match[1] == "retired" and not destination.exists():
            leftover.rename(destination)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether another process has this id; our own id on a leftover means that it was used before us."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _disk_full(error: BaseException) -> bool:
    """Whether an exception, also one that wraps an operating system error as text, says that the disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, Exception) and os.strerror(errno.ENOSPC) in str(error)


def fingerprint(path: Path) -> str:
    """A hash of the contents of a model directory's files: the same model fetched again is still the same."""
    whole = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        with file.open("rb") as source:
            whole.update(f"{file.name} {hashlib.file_digest(source, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]
