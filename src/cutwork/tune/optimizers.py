"""The optimisers that are not made as transformers makes them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers.training_args import OptimizerNames

from cutwork.errors import CutworkError
from cutwork.torch_models.blocks import block_linears
from cutwork.tune.low_bit import LOW_BIT, check_low_bit, low_bit_adamw

_OURS = ("adam", "muon")


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of the blocks, AdamW for everything else, with one learning rate for both.

    Keller Jordan et al., https://kellerjordan.github.io/posts/muon; updates are scaled to AdamW's size as in
    arXiv 2502.16982.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, matrices: set[nn.Parameter]) -> None:
        split: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for group in groups:
            for wanted, part in split.items():
                chosen = [parameter for parameter in group["params"] if (parameter in matrices) is wanted]
                if chosen:
                    part.append({**group, "params": chosen, "matrices": wanted})
        self._inner: list[tuple[bool, torch.optim.Optimizer]] = []
        if split[True]:
            self._inner.append((True, torch.optim.Muon(split[True], lr=lr, adjust_lr_fn="match_rms_adamw")))
        if split[False]:
            self._inner.append((False, torch.optim.AdamW(split[False], lr=lr)))
        super().__init__([group for _, inner in self._inner for group in inner.param_groups], {"lr": lr})

    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """One step of both, on the groups and state that are kept (and saved, and loaded) here."""
        loss = closure() if closure else None
        for wanted, inner in self._inner:
            inner.param_groups = [group for group in self.param_groups if group["matrices"] is wanted]
            inner.state = self.state
            inner.step()
        return loss


def check_optimizer(name: str) -> None:
    """Raise CutworkError for a name that neither transformers nor we know, or whose package is missing."""
    known = [*_OURS, *(member.value for member in OptimizerNames)]
    if name not in known:
        raise CutworkError(f"unknown optimizer '{name}'; known: {', '.join(known)}")
    check_low_bit(name)


def own_optimizer(
    name: str, model: nn.Module, learning_rate: float, seed: int = 0
) -> tuple[type, dict[str, Any]] | None:
    """Class and keywords of an optimiser of ours, for the parameters of `model` as they are now; None if it is not."""
    if name == "adam":
        return torch.optim.Adam, {"lr": learning_rate}
    if name in LOW_BIT:
        return low_bit_adamw(name), {"lr": learning_rate, "seed": seed}
    if name == "muon":
        return Muon, {"lr": learning_rate, "matrices": block_matrices(model)}
    return None


def block_matrices(model: nn.Module) -> set[nn.Parameter]:
    """The trained matrices of the blocks' linears: what Muon's orthogonal steps are for."""
    linears = block_linears(model).values()
    return {p for linear in linears for p in linear.parameters() if p.ndim == 2 and p.requires_grad}
