"""How a model makes vectors, as sentence-transformers writes beside the weights: `modules.json` and what that names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutwork.architectures import kind_of
from cutwork.engine.embedding.pooling import MODES, Dense
from cutwork.errors import CutworkError
from cutwork.store import bfloat16
from cutwork.store.json_file import read_json, read_json_list
from cutwork.store.safetensors import open_tensors

_ACTIVATIONS = {"Identity": "none", "Tanh": "tanh"}  # of a Dense module
_SUFFIXES = {"cls": "_token", "max": "_tokens", "mean": "_tokens", "weightedmean": "_tokens"}  # of older names of modes


@dataclass(frozen=True)
class Description:
    """What happens to a text: `prompts` by name that may come before it, `max_length` tokens (None: the model's own),
    `pooling` of its hidden states (side by side if several), `dense` layers, and `normalize` to length 1.

    Without files that say something else it is the mean, as sentence-transformers takes it of such a directory.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pools_prompt: bool = True  # whether the tokens of a prompt are pooled too


def describe(path: Path, *, classifies: bool = False) -> Description | None:
    """What a model directory says; None if it says nothing of vectors, as of one that `classifies`.

    Raises CutworkError for what this engine does not do.
    """
    modules = read_modules(path)
    if not modules or any(kind == "LogitScore" for kind, _ in modules):
        return None
    for folder in (folder for kind, folder in modules if kind == "Transformer"):
        if generation_prompt(read_transformer(folder)) is not None:
            raise CutworkError(
                f"{path} has its texts written by a chat template, or in another way of their own (modality_config and "
                "processing_kwargs in sentence_bert_config.json), which is not supported"
            )
    if classifies and not any(kind == "Pooling" for kind, _ in modules):
        return None  # a cross-encoder, of which newer versions write that it has one module
    settings: dict[str, Any] = {}
    for kind, folder in modules:
        if settings.get("normalize"):
            raise CutworkError(f"{path}: modules.json has {kind} after Normalize, which is not supported")
        if kind == "Transformer":
            settings |= _transformer(folder)
        elif kind == "Pooling":
            settings |= _pooling(folder / "config.json")
        elif kind == "Dense" and "pooling" in settings:
            settings["dense"] = (*settings.get("dense", ()), _dense(folder))
        elif kind == "Normalize":
            settings["normalize"] = True
        elif kind != "Dropout":
            raise CutworkError(f"{path}: modules.json has a module {kind!r} that this engine does not run")
    if "pooling" not in settings:
        raise CutworkError(f"{path}: modules.json has no Pooling")
    return Description(**settings, **read_prompts(path / "config_sentence_transformers.json"))


def reads_only(config: Mapping[str, Any]) -> bool:
    """Whether a model of this configuration writes no text, whatever its directory says beside."""
    return kind_of(config) == "embedding"


def read_modules(path: Path) -> list[tuple[str, Path]]:
    """The kinds of a directory's modules, each with its folder; [] if it names none."""
    if not (path / "modules.json").is_file():
        return []
    found = []
    for module in read_json_list(path / "modules.json"):
        kind, folder = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if folder and (Path(folder).is_absolute() or ".." in Path(folder).parts):
            raise CutworkError(f"{path}: modules.json names the folder {folder!r} outside the model")
        found.append((kind, path / folder))
    return found


def read_activation(path: Path) -> str | None:
    """What makes scores of a cross-encoder's number, as newer versions name it; None if they do not."""
    file = path / "config_sentence_transformers.json"
    name = read_json(file).get("activation_fn") if file.is_file() else None
    return name if isinstance(name, str) else None


def read_transformer(folder: Path) -> dict[str, Any]:
    """The settings of a Transformer module, nothing without its file."""
    file = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    return read_json(file) if file else {}


def generation_prompt(settings: Mapping[str, Any]) -> bool | None:
    """Whether the prompt for an answer follows what a Transformer module has its chat template write; None if its
    settings do not speak of a template, as those of versions that only knew plain text."""
    modalities, processing = settings.get("modality_config"), settings.get("processing_kwargs")
    if not processing and not (isinstance(modalities, dict) and "message" in modalities):
        return None
    template = processing.get("chat_template") if isinstance(processing, dict) else None
    return isinstance(template, dict) and template.get("add_generation_prompt") is True


def _transformer(folder: Path) -> dict[str, Any]:
    settings = read_transformer(folder)
    length = settings.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 2):
        raise CutworkError(f"{folder}: max_seq_length must be an integer from 2, not {length!r}")
    return {"max_length": length, "lower": settings.get("do_lower_case") is True}


def _pooling(file: Path) -> dict[str, Any]:
    settings = read_json(file)
    named = settings.get("pooling_mode")
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list):
        flags = {mode: f"pooling_mode_{mode}{_SUFFIXES.get(mode, '')}" for mode in MODES}
        named = [mode for mode, flag in flags.items() if settings.get(flag) is True]
    if not named or not set(named) <= set(MODES):
        raise CutworkError(f"{file} names no pooling that this engine knows")
    return {"pooling": tuple(named), "pools_prompt": settings.get("include_prompt", True) is True}


def _dense(folder: Path) -> Dense:
    settings = read_json(folder / "config.json")
    if settings.get("use_residual") or settings.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise CutworkError(f"{folder}: a dense layer beside others is not supported")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise CutworkError(f"{folder}: the activation {activation!r} is not supported; it may be Identity or Tanh")
    tensors = open_tensors(folder)
    stored = {name.removeprefix("linear."): bfloat16.in_float32(tensors[name].array) for name in tensors}
    weight, bias = stored.get("weight"), stored.get("bias")
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise CutworkError(f"{folder} is damaged: it must hold a weight [out, in], and a bias [out] or none")
    return Dense(weight, bias, _ACTIVATIONS[activation])


def read_prompts(file: Path) -> dict[str, Any]:
    """The prompts by name and the default one's name, as `Description` has them; {} if there is no such file."""
    if not file.is_file():
        return {}
    settings = read_json(file)
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CutworkError(f"{file}: prompts must be texts by their names")
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CutworkError(f"{file}: default_prompt_name {default!r} is none of the prompts")
    return {"prompts": prompts, "default_prompt": default}
