"""AdamW with moments of 8 or 4 bits (torchao's), which also trains weights in bfloat16 without float32 copies of them.

A bfloat16 weight is rounded up or down at random, so that on average no step is lost: to the nearest, all steps below
2^-9 of a weight would be.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError
from transformers.utils import is_torchao_available

from cutwork.errors import CutworkError
from cutwork.extras import install

LOW_BIT = ("adamw_torch_8bit", "adamw_torch_4bit")  # as transformers calls them


def check_low_bit(name: str) -> None:
    """Raise CutworkError if an optimiser is one of these and torchao is not there."""
    if name in LOW_BIT and not is_torchao_available():
        raise CutworkError(f"optimizer {name} needs torchao; install it with: {install('torchao')}")


def low_bit_adamw(name: str) -> type[torch.optim.Optimizer]:
    """The class of an optimiser of LOW_BIT; it is made with parameter groups, a learning rate and a seed.

    What is random in a step follows from the seed and the number of steps before it: the same in every process, whose
    weights would drift apart otherwise, and in a run that is resumed. A step raises CutworkError where torchao cannot
    compile it.
    """
    from torchao.optim import AdamW4bit, AdamW8bit

    base: Any = AdamW8bit if name == "adamw_torch_8bit" else AdamW4bit

    class Seeded(base):
        def __init__(self, groups: Iterable[dict[str, Any]], lr: float, seed: int) -> None:
            super().__init__(groups, lr, bf16_stochastic_round=True)
            self._seed = seed

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            devices = {p.device for group in self.param_groups for p in group["params"] if p.device.type == "cuda"}
            done = max((int(state["step"]) for state in self.state.values()), default=0)
            with torch.random.fork_rng(devices=list(devices)):
                torch.manual_seed(self._seed + done)
                try:
                    return super().step(closure)
                except (BackendCompilerFailed, InductorError) as error:
                    raise CutworkError(
                        f"torchao could not compile optimizer {name} ({str(error).splitlines()[0]}); install a C++ "
                        "compiler and Python's headers (g++, python3-dev)"
                    ) from None

    return Seeded
