"""From a model directory to a torch model and a tokenizer, and back to a directory."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from cutwork import checkpoint
from cutwork.errors import CutworkError
from cutwork.train.family import family_of


def load_model(path: Path, dtype: torch.dtype | str, attention: str = "sdpa") -> nn.Module:
    """The model of a plain checkpoint in `dtype` ("auto": as stored), with one of transformers' attentions.

    Never runs code that comes with a model.

    Raises CutworkError for quantised or packed models, unknown architectures and unreadable files.
    """
    kind = checkpoint.kind(path)
    if kind != "checkpoint":
        raise CutworkError(f"{path} is a {kind} model; this step needs the plain checkpoint it was made from")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        family_of(AutoConfig.from_pretrained(path))
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CutworkError(f"cannot load {path}: {' '.join(str(error).split())[:300]}") from None
    # transformers refuses to save a generation config that it finds inconsistent; ours is copied as a file instead.
    model.generation_config = GenerationConfig()
    return model


def load_for_surgery(path: Path) -> tuple[Any, torch.dtype]:
    """A model in its stored dtype (float16, which CPUs compute slowly, becomes float32), and the stored dtype."""
    model: Any = load_model(path, "auto")
    stored = model.dtype
    return (model.float() if stored == torch.float16 else model), stored


def load_tokenizer(path: Path) -> Any:
    """The tokenizer beside a model; CutworkError if there is none or it has no end-of-sequence token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise CutworkError(f"cannot load the tokenizer in {path}: {' '.join(str(error).split())[:300]}") from None
    if tokenizer.eos_token_id is None:
        raise CutworkError(f"the tokenizer in {path} has no eos_token, so the model could not learn to stop; set one")
    return tokenizer


def save_model(model: Any, source: Path, destination: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write a plain checkpoint into a directory, with the tokenizer and the other small files of `source`.

    `state` replaces the model's own weights, where those are only a shard.
    """
    model.save_pretrained(destination, state_dict=state)
    (destination / "generation_config.json").unlink(missing_ok=True)
    checkpoint.copy_side_files(source, destination)
