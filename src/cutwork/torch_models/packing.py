"""Samples behind each other in one row without padding; each attends to itself only.

transformers makes the block-diagonal mask where positions begin anew, for most decoders; if for a model's is tried.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.tasks.rendering import IGNORED
from cutwork.torch_models.model_inputs import DecoderOnlyInputs, Example, inputs_of

_TRIED = (5, 9)  # tokens of two samples


def collate_packed(batch: Sequence[Example]) -> dict[str, Tensor]:
    """`collate` of decoder-only examples into one row: int64 [1, T] each, `position_ids` from 0 for every example.

    The first token of an example is never a label: no token of its own comes before it.
    """
    labels = [label for example in batch for label in (IGNORED, *example["labels"][1:])]
    positions = [torch.arange(len(example["input_ids"])) for example in batch]
    return {
        "input_ids": torch.tensor([[token for example in batch for token in example["input_ids"]]]),
        "labels": torch.tensor([labels]),
        "attention_mask": torch.ones(1, len(labels), dtype=torch.long),
        "position_ids": torch.cat(positions)[None],
    }


def check_decoder_only(config: Any) -> None:
    """Raise CutworkError for a model that has an encoder, or is one, whose samples stand in no row."""
    if not isinstance(inputs_of(config), DecoderOnlyInputs):
        raise CutworkError("packing is for models without an encoder; leave it out")


def check_packing(model: Any) -> None:
    """Raise CutworkError unless the model gives samples in one row what it gives each alone."""
    check_decoder_only(model.config)
    ids = torch.arange(sum(_TRIED), device=next(model.parameters()).device)[None] % model.config.vocab_size
    positions = torch.cat([torch.arange(count) for count in _TRIED])[None].to(ids.device)
    training = model.training
    model.eval()
    mixed = torch.autocast(ids.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    with torch.no_grad(), mixed:
        alone = torch.cat([model(part, use_cache=False).logits for part in ids.split(_TRIED, dim=1)], dim=1)
        try:
            packed = model(ids, position_ids=positions, use_cache=False).logits
        except TypeError:  # of a model that takes no positions
            packed = torch.full_like(alone, torch.inf)
    model.train(training)
    near = 1e-2 if alone.dtype == torch.float32 else 5e-2
    if not torch.allclose(packed, alone, rtol=near, atol=near * float(alone.abs().max())):
        raise CutworkError(
            f"a {model.config.model_type} of transformers lets samples in one row see each other; leave out packing"
        )
