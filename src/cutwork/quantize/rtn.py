"""Rounding to nearest: symmetric int8 with one scale per output channel."""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127  # codes lie in [-127, 127], so that negation is exact and zero is code 0


@dataclass(frozen=True)
class Quantized:
    """Codes int8 [out, in] and scales float32 [out]; the weight they stand for is codes · scales[:, None]."""

    codes: Tensor
    scales: Tensor

    def weight(self) -> Tensor:
        """The weight that the codes stand for, float32 [out, in]."""
        return self.codes.float() * self.scales[:, None]


def channel_scales(weight: Tensor) -> Tensor:
    """The scale per row of a weight [out, in] that maps its largest magnitude to code 127, float32 [out].

    A row of zeros gets scale 1: any scale would do, and dividing by it must not.
    """
    largest = weight.float().abs().amax(dim=1)
    return torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))


def rtn(weight: Tensor) -> Quantized:
    """Round every entry of a weight [out, in] to the nearest code; zeros get code 0."""
    scales = channel_scales(weight)
    codes = (weight.float() / scales[:, None]).round().clamp(-LARGEST, LARGEST)
    return Quantized(codes.to(torch.int8), scales)
