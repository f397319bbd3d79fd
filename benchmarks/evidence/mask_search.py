"""Masks found on the training loss: ADMM inside a fine-tuning, after ELSA (arXiv 2510.01650; written from the paper).

Weights w learn while they are drawn to the nearest weights z that have the pattern, what is left between them (u) being
added up: w <- w - p (w - z + u) before every optimiser step, p rising in a line; every few steps z <- the pattern of
w + u, u <- u + w - z. Near is by the gradients' squares, as in ELSA: what the loss hardly asks for goes first.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cutwork.prune.pattern import Pattern
from cutwork.torch_models.blocks import block_linears, out_in
from cutwork.tune.tune import Preparation

_MEMORY = 0.9  # of a step, that of the gradients' squares keeps


@dataclass
class _Linear:
    weight: Tensor  # [out, in], a view of what is trained
    squares: Tensor
    left: Tensor  # u
    goal: Tensor  # z


@dataclass
class MaskSearch:
    """The search for masks in a fine-tuning of so many steps, each of one forward pass; it cannot be resumed.

    most: the pull of the last step, p. every: steps from one choice of masks to the next.
    """

    pattern: Pattern
    steps: int
    most: float = 0.2
    every: int = 4
    _linears: dict[str, _Linear] = field(default_factory=dict)
    _step: int = 0

    def preparation(self) -> Preparation:
        """What `tune` does to the model before it is trained."""
        return Preparation(self.apply, ["mask search", repr(self.pattern), self.steps, self.most, self.every])

    def apply(self, model: nn.Module) -> None:
        """Search whenever the model is trained from now on."""
        for name, linear in block_linears(model).items():
            weight = out_in(linear).detach()
            found = _Linear(weight, torch.zeros_like(weight), torch.zeros_like(weight), weight.clone())
            self._linears[name] = found
            transposed = not isinstance(linear, nn.Linear)

            def learn(parameter: Tensor, found: _Linear = found, transposed: bool = transposed) -> None:
                assert parameter.grad is not None
                gradient = parameter.grad.T if transposed else parameter.grad
                found.squares.mul_(_MEMORY).addcmul_(gradient, gradient, value=1 - _MEMORY)

            linear.get_parameter("weight").register_post_accumulate_grad_hook(learn)
        model.register_forward_pre_hook(self._before_step)

    def _before_step(self, model: nn.Module, _: Any) -> None:
        if not model.training:
            return
        choose, pull = self._step % self.every == 0, self.most * self._step / max(self.steps - 1, 1)
        with torch.no_grad():
            for each in self._linears.values():
                if choose and self._step:
                    sums = each.weight + each.left
                    costs = each.squares.sqrt() * sums.square()
                    each.goal = sums * self.pattern.keep(costs, torch.ones_like(sums, dtype=torch.bool))
                    each.left = sums - each.goal
                each.weight.sub_(each.weight - each.goal + each.left, alpha=pull)
        self._step += 1
