"""Adapters that PEFT trained, put into the model they were trained on."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from rich.console import Console
from torch import nn

from cutwork.errors import CutworkError
from cutwork.store.directory import copy_side_files
from cutwork.store.json_file import read_json
from cutwork.store.output import output_directory
from cutwork.store.resolve import resolve
from cutwork.store.safetensors import SafetensorsFile
from cutwork.torch_models.load import load_config, load_model, save_model
from cutwork.torch_models.model_inputs import DecoderOnlyInputs, inputs_of
from cutwork.tune.masks import Masks

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Of one that was trained on a model that also sees: how its names begin, and those of the language model alone.
_INSIDE = {r"^model\.language_model\.": "model.", r"^language_model\.": ""}
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
              "additional_chat_templates/*", "normalizer.json", "*.spm", "*.model")  # fmt: skip


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
    adapter takes the place of the base's. Returns how many weights are zero, and how many that were the adapter fills,
    or would have filled.

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
            adapted = PeftModel(model, PeftConfig.from_pretrained(adapter))
            missing, strange = adapted.load_adapter(adapter, "default", key_mapping=_INSIDE)  # PEFT passes over both
            if strange:
                raise ValueError(f"{len(strange)} of its weights have no place there, as {strange[0]}")
            if missing:
                raise ValueError(f"it lacks {len(missing)} of the weights that belong there, as {missing[0]}")
            _untie(adapted)
            merged = adapted.merge_and_unload(safe_merge=True)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CutworkError(f"the adapter in {adapter} does not fit {base}: {reason}") from None
        filled = sum(int(((merged.get_submodule(name).weight != 0) & ~live).sum()) for name, live in masks.live.items())
        if keep_zeros and filled:
            Masks(merged, masks.live).mask_weights()
            console.print(f"the adapter would have filled {filled} zeros; what it adds there is left out")
        save_model(merged.to(stored), base, partial)
        if (adapter / "tokenizer_config.json").is_file():
            for file in [file for pattern in _TOKENIZER for file in partial.glob(pattern) if file.is_file()]:
                file.unlink(missing_ok=True)  # of the base's; half of one tokenizer and half of another are none
            copy_side_files(adapter, partial)
    zeros = sum(int((~live).sum()) for live in masks.live.values())
    return {"base": str(base), "zeros": zeros if keep_zeros else zeros - filled, "filled": filled}


def _untie(adapted: Any) -> None:
    """Give each layer that is adapted and shares its matrix one of its own: what is added to a tied head is not for the
    embedding. Raises ValueError for models with an encoder, whose parts share it as well."""
    users = Counter(id(weight) for _, weight in adapted.named_parameters(remove_duplicate=False))
    for name, layer in adapted.named_modules():
        if not isinstance(layer, BaseTunerLayer) or isinstance(layer, TrainableTokensLayer):  # PEFT keeps those tied
            continue
        inner: Any = layer.get_base_layer()
        if users[id(getattr(inner, "weight", None))] < 2:
            continue
        if not isinstance(inputs_of(adapted.config), DecoderOnlyInputs):
            raise ValueError(f"it changes {name}, which shares its weight with other layers")
        inner.weight = nn.Parameter(inner.weight.detach().clone())
        adapted.config.tie_word_embeddings = False
