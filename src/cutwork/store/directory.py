"""Model directories: which kind one is, its configuration and the small files beside its weights. No torch here."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from cutwork.errors import CutworkError, damaged_if_not_understood
from cutwork.store import bitmask
from cutwork.store.checkpoint import open_checkpoint
from cutwork.store.compressed_tensors import refuse_unreadable
from cutwork.store.foreign import FORMATS, refuse_foreign
from cutwork.store.json_file import read_json
from cutwork.store.text_part import text_config

Kind = Literal["checkpoint", "quantized", "packed"]

PACKED = "cutwork.json"

_SIDE_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "normalizer.json",
    "*.spm",
    "*.model",
    "LICENSE*",
    "examples.json",
    "modules.json",  # these and the folders below are sentence-transformers'
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "[0-9]*_*/config.json",
    "[0-9]*_*/model.safetensors",
)


def is_model(path: Path) -> bool:
    """Whether a directory looks like a model of some kind, be it damaged."""
    return any((path / name).is_file() for name in (PACKED, "config.json"))


def kind_of(path: Path) -> Kind:
    """Which of the three kinds of model directory `path` is.

    Raises CutworkError, naming the format and what to do, for anything that cannot be read.
    """
    if not path.exists():
        raise CutworkError(f"no model directory at {path}")
    if path.is_file():
        refuse_foreign(path.parent, [path])
        raise CutworkError(f"{path} is a file; give the model's directory")
    if (path / PACKED).is_file():
        return "packed"
    if (path / "adapter_config.json").is_file():
        raise CutworkError(f"{path} holds a LoRA adapter; put it into its base model first: cutwork merge {path} OUT")
    if not any(path.glob("*.safetensors")):
        if (index := path / "model.safetensors.index.json").is_file():
            raise CutworkError(f"{index} names files that are not there; download them, too")
        refuse_foreign(path, _matching(path, FORMATS))
        raise CutworkError(f"{path} is not a model directory: no *.safetensors in it")
    config = read_json(path / "config.json")
    quantization = config.get("quantization_config", config.get("compression_config"))
    if quantization is not None:
        with damaged_if_not_understood(path / "config.json"):
            refuse_unreadable(path, quantization)
    return "quantized" if "quantization_config" in bitmask.plain_config(config) else "checkpoint"


def check_plain(path: Path) -> None:
    """Raise CutworkError for a model directory that was quantised or packed, or is none."""
    if (kind := kind_of(path)) != "checkpoint":
        raise CutworkError(f"{path} is a {kind} model; this step needs the plain checkpoint it was made from")


def read_config(path: Path) -> dict[str, Any]:
    """The Hugging Face configuration of a model directory of any kind, without a `sparsity_config`.

    Of a model that also sees it is that of the language model inside, which is all that is read of it.
    """
    if (path / PACKED).is_file():
        config = read_json(path / PACKED).get("config")
        if not isinstance(config, dict):
            raise CutworkError(f"{path / PACKED} has no 'config'; pack the model again")
        return config
    whole = bitmask.plain_config(read_json(path / "config.json"))
    config = text_config(whole)
    if whole.get("tie_word_embeddings") is True and config.get("tie_word_embeddings") is False:
        # Who is right shows in what is stored: transformers goes by the wrapper.
        config["tie_word_embeddings"] = not any(name.startswith("lm_head.") for name in open_checkpoint(path))
    return config


def copy_side_files(source: Path, destination: Path) -> list[str]:
    """Copy the tokenizer, generation, pooling and licence files that belong to a model, except those already there.

    Returns the names of the files copied.
    """
    names = [file.relative_to(source).as_posix() for file in _matching(source, _SIDE_FILES)]
    copied = [name for name in names if not (destination / name).exists()]
    for name in copied:
        (destination / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, destination / name)
    return copied


def model_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that load it: weights, configuration and what lies beside them, but no reports."""
    return _matching(checkpoint, ("config.json", "*.safetensors", "*.safetensors.index.json", *_SIDE_FILES))


def _matching(directory: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in directory.glob(pattern) if file.is_file()})
