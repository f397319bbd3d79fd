"""Adapters that PEFT trained, put into the model they were trained on."""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console

from cutwork.errors import CutworkError
from cutwork.store.directory import copy_side_files
from cutwork.store.json_file import read_json
from cutwork.store.output import output_directory
from cutwork.store.resolve import resolve
from cutwork.store.safetensors import SafetensorsFile
from cutwork.torch_models.load import load_config, load_model, save_model
from cutwork.tune.masks import Masks

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge_adapter(
    adapter: Path,
    output: Path,
    base: Path | None = None,
    *,
    keep_zeros: bool = True,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write what an adapter of PEFT and its base model are together, as a plain checkpoint in the base's dtype.

    Added up in float32. base: by default what the adapter's configuration names. With `keep_zeros`, whatever is zero in
    a linear of the base's blocks stays zero, and what the adapter adds there is left out. A tokenizer beside the
    adapter takes the place of the base's. Returns how many weights of the base were zero, and how many of them the
    adapter would have filled.

    Raises CutworkError for what is no adapter, one with pickled weights or for another model, or an unusable base.
    """
    console = console or Console(stderr=True)
    if not (adapter / _CONFIG).is_file():
        raise CutworkError(f"{adapter} holds no adapter of PEFT: there is no {_CONFIG}")
    if not (adapter / _WEIGHTS).is_file():
        raise CutworkError(f"{adapter} has no {_WEIGHTS}; save the adapter again with PEFT, which writes safetensors")
    SafetensorsFile(adapter / _WEIGHTS)  # raises CutworkError for a damaged one
    config = read_json(adapter / _CONFIG)
    if config.get("alora_invocation_tokens"):
        raise CutworkError(f"{adapter} is an activated LoRA, which changes some tokens alone, so it cannot be merged")
    named = config.get("base_model_name_or_path")
    if base is None:
        if not isinstance(named, str) or not named:
            raise CutworkError(f"{adapter / _CONFIG} names no base model; give it with --base")
        base = resolve(named)
    with output_directory(output, overwrite=overwrite, source=base) as partial:
        stored = load_config(base).dtype or torch.float32
        model: Any = load_model(base, torch.float32)
        masks = Masks(model)
        try:
            merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CutworkError(f"the adapter in {adapter} does not fit {base}: {reason}") from None
        filled = sum(int(((merged.get_submodule(name).weight != 0) & ~live).sum()) for name, live in masks.live.items())
        if keep_zeros and filled:
            Masks(merged, masks.live).mask_weights()
            console.print(f"the adapter would have filled {filled} zeros; what it adds there is left out")
        save_model(merged.to(stored), base, partial)
        copy_side_files(adapter, partial)
    zeros = sum(int((~live).sum()) for live in masks.live.values())
    return {"base": str(base), "zeros": zeros, "filled": filled}
