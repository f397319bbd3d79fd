"""Batches: samples as token ids, in an order that depends on the seed and the epoch alone, padded to the longest."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from cutwork.errors import CutworkError
from cutwork.tasks.rendering import IGNORED, render
from cutwork.tasks.task import Sample

Example = dict[str, list[int]]


def examples(tokenizer: Any, samples: Sequence[Sample], max_length: int) -> list[Example]:
    """Samples as `input_ids` and `labels`; CutworkError for an empty list or a sample beyond `max_length` tokens."""
    if not samples:
        raise CutworkError("the task has no training samples")
    rendered = (render(tokenizer, sample, max_length) for sample in samples)
    return [{"input_ids": ids, "labels": labels} for ids, labels in rendered]


def collate(batch: Sequence[Example]) -> dict[str, Tensor]:
    """Example lists as int64 tensors [B, T], T being the longest example's length; padded on the right.

    The padding's token id is 0 and never matters: it is masked, and behind every real token.
    """
    length = max(len(example["input_ids"]) for example in batch)

    def padded(key: str, value: int) -> Tensor:
        return torch.tensor([example[key] + [value] * (length - len(example[key])) for example in batch])

    lengths = torch.tensor([len(example["input_ids"]) for example in batch])
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
    }


class StepSampler(Sampler[int]):
    """Shuffles samples into optimiser steps, and sorts each step by length so that its micro-batches pad little.

    Steps remain unbiased random draws, unlike with lengths grouped across steps. The order is a function of
    `(seed, epoch)`, so a resumed run skips exactly what was seen.
    """

    def __init__(self, lengths: Sequence[int], step_size: int, seed: int) -> None:
        self.lengths, self.step_size, self.seed = lengths, step_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        for start in range(0, len(order), self.step_size):
            yield from sorted(order[start : start + self.step_size], key=lambda i: -self.lengths[i])
