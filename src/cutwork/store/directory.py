"""Model directories: which kind one is, its configuration and the small files beside its weights. No torch here."""

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, Literal

from cutwork.errors import CutworkError, damaged_if_not_understood
from cutwork.store import bitmask
from cutwork.store.checkpoint import open_checkpoint
from cutwork.store.compressed_tensors import refuse_unreadable
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

# What a directory without safetensors may hold instead, and what its owner can do about it.
_FOREIGN = {
    "*.gguf": "GGUF; give the path of the file itself",
    "pytorch_model*.bin": (
        "pickled weights, which can run code; convert them once with transformers: "
        "{model_class}.from_pretrained(...).save_pretrained(...), and the tokenizer likewise"
    ),
    "*.pt": "pickled weights, which can run code; use the model's safetensors version",
    "*.pth": "pickled weights, which can run code; use the model's safetensors version",
    "*.onnx": "ONNX; use the Hugging Face checkpoint it was exported from",
    "onnx/*.onnx": "ONNX; use the Hugging Face checkpoint it was exported from",
    "openvino_model.xml": "OpenVINO; use the Hugging Face checkpoint it was exported from",
    "tf_model.h5": "TensorFlow; use the model's safetensors version",
    "flax_model.msgpack": "Flax; use the model's safetensors version",
}


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
        _refuse_foreign(path.parent, [path])
        raise CutworkError(f"{path} is a file; give the model's directory")
    if (path / PACKED).is_file():
        return "packed"
    if (path / "adapter_config.json").is_file():
        raise CutworkError(f"{path} holds a LoRA adapter; put it into its base model first: cutwork merge {path} OUT")
    if not any(path.glob("*.safetensors")):
        if (index := path / "model.safetensors.index.json").is_file():
            raise CutworkError(f"{index} names files that are not there; download them, too")
        _refuse_foreign(path, _matching(path, _FOREIGN))
        raise CutworkError(f"{path} is not a model directory: no *.safetensors in it")
    config = read_json(path / "config.json")
    quantization = config.get("quantization_config", config.get("compression_config"))
    if quantization is not None:
        with damaged_if_not_understood(path / "config.json"):
            refuse_unreadable(path, quantization)
    return "quantized" if "quantization_config" in bitmask.plain_config(config) else "checkpoint"


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


def foreign_among(files: Iterable[PurePath], directory: Path) -> tuple[PurePath, str] | None:
    """The first of the files in a format that is not read, and what it is and its owner can do; None if there is none.

    directory: where the model's config.json lies, if it has one.
    """
    files = sorted(files)
    found = ((file, advice) for known, advice in _FOREIGN.items() for file in files if file.match(known))
    file, advice = next(found, (None, ""))
    return None if file is None else (file, advice.format(model_class=_class_to_convert_with(directory)))


def _class_to_convert_with(directory: Path) -> str:
    """transformers' class for the model whose config.json lies there."""
    path = directory / "config.json"
    config = read_json(path) if path.is_file() else {}
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0].isidentifier():
        return names[0]
    return "AutoModelForSeq2SeqLM" if config.get("is_encoder_decoder") else "AutoModelForCausalLM"


def _refuse_foreign(directory: Path, files: Iterable[Path]) -> None:
    found = foreign_among(files, directory)
    if found:
        raise CutworkError(f"cannot read {found[0]}: it is {found[1]}")
