"""Weights in formats that are not read: what a directory may hold instead of safetensors, or beside them."""

from collections.abc import Iterable
from pathlib import Path, PurePath

from cutwork.errors import CutworkError
from cutwork.store.json_file import read_json

# By pattern: what it is, and what its owner can do about it.
FORMATS = {
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
    "rust_model.ot": "Rust's tch; use the model's safetensors version",
    "*.tflite": "TensorFlow Lite; use the model's safetensors version",
}
SUFFIXES = frozenset(PurePath(pattern).suffix for pattern in FORMATS)


def foreign_among(files: Iterable[PurePath], directory: Path) -> tuple[PurePath, str] | None:
    """The first of the files in a format that is not read, and what it is and its owner can do; None if there is none.

    directory: where the model's config.json lies, if it has one.
    """
    files = sorted(files)
    found = ((file, advice) for known, advice in FORMATS.items() for file in files if file.match(known))
    file, advice = next(found, (None, ""))
    return None if file is None else (file, advice.format(model_class=_class_to_convert_with(directory)))


def refuse_foreign(directory: Path, files: Iterable[Path]) -> None:
    """Raise CutworkError, with what can be done, if one of the files is in a format that is not read."""
    found = foreign_among(files, directory)
    if found:
        raise CutworkError(f"cannot read {found[0]}: it is {found[1]}")


def _class_to_convert_with(directory: Path) -> str:
    """transformers' class for the model whose config.json lies there."""
    path = directory / "config.json"
    config = read_json(path) if path.is_file() else {}
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str) and names[0].isidentifier():
        return names[0]
    return "AutoModelForSeq2SeqLM" if config.get("is_encoder_decoder") else "AutoModelForCausalLM"
