"""Which tokens of a batch each loss looks at, and with which part of the model's output: one class per model family."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from cutwork.errors import CutworkError
from cutwork.tasks.rendering import IGNORED

Batch = dict[str, Any]


@dataclass(frozen=True)
class Features:
    """Hidden states that SquareHead compares: one [B, T, D] per block, and the tokens [B, T] that count."""

    hidden: tuple[Tensor, ...]
    mask: Tensor


class Family(Protocol):
    """How a kind of model is called and which of its outputs are learned from."""

    def inputs(self, batch: Batch) -> Batch:
        """The keywords of the model's forward pass."""

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions [B, T] (bool) of the output head's input whose logits are wanted, and their targets [N]."""

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """The groups of hidden states to compare with the teacher's."""


class DecoderOnly:
    """Llama, GPT, OPT, MPT, …: position t predicts token t+1; batches are padded on the right."""

    def inputs(self, batch: Batch) -> Batch:
        """Only the ids: behind a causal mask no real token sees the padding to its right, and the fast path is free."""
        return {"input_ids": batch["input_ids"], "use_cache": False}

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Every position whose next token is a label."""
        targets = torch.full_like(batch["labels"], IGNORED)
        targets[:, :-1] = batch["labels"][:, 1:]
        rows = targets != IGNORED
        return rows, targets[rows]

    def features(self, outputs: Any, batch: Batch) -> list[Features]:
        """Outputs of every block (the last after the final norm), at prompt and answer alike."""
        return [Features(tuple(outputs.hidden_states[1:]), batch["attention_mask"])]


def family_of(config: Any) -> Family:
    """The family of a Hugging Face configuration; CutworkError for one that cannot be trained yet."""
    if getattr(config, "is_encoder_decoder", False):
        raise CutworkError(f"'{config.model_type}' has an encoder; only decoder-only models can be fine-tuned so far")
    return DecoderOnly()
