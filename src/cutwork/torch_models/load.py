"""From a model directory to a torch model and a tokenizer, and back to a directory."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTokenClassification,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging

from cutwork import architectures
from cutwork.architectures.architecture import Classified, Kind
from cutwork.errors import CutworkError
from cutwork.store.checkpoint import open_checkpoint
from cutwork.store.directory import check_plain, copy_side_files, read_config
from cutwork.store.json_file import read_json, write_json
from cutwork.store.safetensors import Tensor as StoredTensor
from cutwork.store.safetensors import Tensors
from cutwork.torch_models.model_inputs import inputs_of

_CLASSES: dict[Kind, Any] = {
    "text": AutoModelForCausalLM,
    "translation": AutoModelForSeq2SeqLM,
    "speech": AutoModelForSpeechSeq2Seq,
    "embedding": AutoModel,
}
_CLASSIFIERS: dict[Classified, Any] = {
    "text": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
}

# What to do about a checkpoint by other names than its model has; Nomic's are told by a key of their config.
SAVE_BY_OWN_NAMES = (
    "load it with transformers, save it again with save_pretrained(..., save_original_format=False), and remove n_embd "
    "from its config.json if it is there"
)


def load_model(path: Path, dtype: torch.dtype | str, attention: str = "sdpa") -> nn.Module:
    """The model of a plain checkpoint in `dtype` ("auto": as stored), with one of transformers' attentions.

    Decoder-only, encoder-decoder and speech models, encoders and classifiers; one that lacks the attention asked for
    gets the plain one. Never runs code that comes with a model.

    Raises CutworkError for quantised or packed models, unknown architectures, unreadable files and weights that are
    in none of these.
    """
    check_plain(path)
    config = load_config(path)
    inputs_of(config)
    try:
        model, found = _with_attention(partial(_from_files, config, dtype=dtype), path, attention)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CutworkError(f"cannot load {path}: {' '.join(str(error).split())[:300]}") from None
    _check_complete(model, found["missing_keys"], path)
    # transformers refuses to save a generation config that it finds inconsistent; ours is copied as a file instead.
    model.generation_config = GenerationConfig()
    if architectures.classifies(config.to_dict()) == "text" and config.pad_token_id is None:
        model.config.pad_token_id = 0  # as batches are padded: without it transformers refuses them
    return model


def _check_complete(model: Any, missing: Collection[str], path: Path) -> None:
    """Raise CutworkError for parameters that no file had, which transformers fills with random numbers."""
    lacking = [name for name, _ in model.named_parameters(remove_duplicate=False) if name in missing]
    lacking = without_pooler(model, lacking)
    if not lacking:
        return
    refuse_headless(model, lacking, path)
    more = f" and {len(lacking) - 1} others that the model has" if len(lacking) > 1 else ""
    raise CutworkError(f"{path} has no weight '{lacking[0]}'{more}; save or download it again")


def refuse_headless(model: Any, missing: list[str], path: Path) -> None:
    """Raise CutworkError if all that is missing is an output head that is no embedding."""
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        return
    if all(model.get_parameter(name) is head.weight for name in missing):
        raise CutworkError(
            f"{path} has no output head '{missing[0]}'; if the model makes vectors alone or its head is its embedding, "
            "set tie_word_embeddings to true in its config.json, and if not, save or download it again"
        )


def without_pooler(model: Any, missing: list[str]) -> list[str]:
    """What is missing besides an encoder's pooler, which the model then does without, as hidden states do: those saved
    from a ...ForMaskedLM have none."""
    pooler = {name for name, _ in model.named_parameters() if name.startswith("pooler.")}
    if not pooler or not pooler.issubset(missing):
        return missing
    model.pooler = None
    return [name for name in missing if name not in pooler]


def empty_model(config: Any, attention: str = "sdpa") -> Any:
    """The model that a configuration describes, with whatever weights the caller's context gives it.

    Raises CutworkError for unknown architectures.
    """
    inputs_of(config)
    try:
        return _with_attention(partial(_auto_class(config).from_config, trust_remote_code=False), config, attention)
    except (ValueError, KeyError, RuntimeError) as error:
        raise CutworkError(f"cannot build a {config.model_type}: {' '.join(str(error).split())[:300]}") from None


def load_config(path: Path) -> Any:
    """The configuration of a model directory; CutworkError if transformers cannot read it.

    Of a model that also sees it is that of the language model inside, which is all that is trained.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers' own checks of types raise kinds of their own
        raise CutworkError(f"cannot load {path}: {' '.join(str(error).split())[:300]}") from error
    text = getattr(config, "text_config", None)
    if not text:
        return config
    tied = read_config(path).get("tie_word_embeddings")  # for which a wrapper's own word may count
    if tied is not None:
        text.tie_word_embeddings = tied
    return text


def _from_files(config: Any, path: Path, **options: Any) -> Any:
    """The model, and what transformers says of what it found."""
    stored = open_checkpoint(path)
    options["output_loading_info"] = True
    if isinstance(stored, Tensors):
        return _auto_class(config).from_pretrained(path, use_safetensors=True, trust_remote_code=False, **options)
    # Zeros in bitmasks, which transformers would leave random, or the text part of a larger model.
    for key in ("quantization_config", "compression_config", "sparsity_config"):
        if hasattr(config, key):
            delattr(config, key)
    with torch.device("meta"):
        model_class: Any = type(_auto_class(config).from_config(config, trust_remote_code=False))
    state = {name: _to_torch(stored[name]) for name in stored}
    return model_class.from_pretrained(None, config=config, state_dict=state, **options)


def _to_torch(tensor: StoredTensor) -> Tensor:
    """A tensor of a safetensors file, copied."""
    array = np.array(tensor.array)
    if tensor.dtype == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _auto_class(config: Any) -> Any:
    classified = architectures.classifies(config.to_dict())
    return _CLASSIFIERS[classified] if classified else _CLASSES[architectures.kind_of(config.to_dict())]


def _with_attention(make: Callable[..., Any], what: Any, attention: str) -> Any:
    try:
        return make(what, attn_implementation=attention)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        return make(what, attn_implementation="eager")


def load_for_surgery(path: Path) -> tuple[Any, torch.dtype]:
    """A model in its stored dtype (float16, which CPUs compute slowly, becomes float32), and the stored dtype."""
    model: Any = load_model(path, "auto")
    stored = model.dtype
    return (model.float() if stored == torch.float16 else model), stored


def load_tokenizer(path: Path) -> Any:
    """The tokenizer beside a model, or a speech model's processor, which holds its tokenizer.

    Raises CutworkError if there is none, or if it has no end-of-sequence token that a model has to write.
    """
    kind = architectures.kind_of(load_config(path).to_dict())
    speech = kind == "speech"
    try:
        tokenizer = (AutoProcessor if speech else AutoTokenizer).from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as tokenizers raises it
        raise CutworkError(f"cannot load the tokenizer in {path}: {' '.join(str(error).split())[:300]}") from error
    if kind != "embedding" and (tokenizer.tokenizer if speech else tokenizer).eos_token_id is None:
        raise CutworkError(f"the tokenizer in {path} has no eos_token, so the model could not learn to stop; set one")
    return tokenizer


def stop_at(directory: Path, tokens: frozenset[int]) -> None:
    """Let a checkpoint's generation_config.json name these tokens among those that end a text, so that whoever runs the
    model stops where it learned to."""
    file = directory / "generation_config.json"
    said: dict[str, Any] = read_json(file) if file.is_file() else {}
    named = said.get("eos_token_id", read_json(directory / "config.json").get("eos_token_id"))
    known = named if isinstance(named, list) else [] if named is None else [named]
    if tokens - set(known):
        write_json(file, {**said, "eos_token_id": [*known, *sorted(tokens - set(known))]})


def save_model(model: Any, source: Path, destination: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write a plain checkpoint into a directory, with the tokenizer and the other small files of `source`.

    `state` replaces the model's own weights, where those are only a shard.
    """
    said = load_config(source)
    if hasattr(model.config, "use_cache"):  # transformers' Trainer turns it off, which is not for those who generate
        model.config.use_cache = getattr(said, "use_cache", True)
    if hasattr(model.config, "pad_token_id"):
        model.config.pad_token_id = getattr(said, "pad_token_id", None)
    model.save_pretrained(destination, state_dict=state)
    (destination / "generation_config.json").unlink(missing_ok=True)
    copy_side_files(source, destination)
