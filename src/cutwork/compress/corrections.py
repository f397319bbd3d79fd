"""What errors of a kind of linear cost together, measured, beside what was predicted for each alone.

Predictions (`sensitivity.py`) take tokens as if their errors knew nothing of each other; those of one text are alike,
and errors add up, most where weights are rounded to 4 bits. So all linears of a kind lose a known part at once: weights
pruned a little, in 4 bits, or inputs in 8 bits. How many times as much as predicted that costs, each part of their
candidates' costs is multiplied by.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.errors import PROBE, Cost, LinearErrors, place, rounded_to_int4
from cutwork.compress.sensitivity import Damage, divergences
from cutwork.prune.input_statistics import MeanSquares
from cutwork.prune.wanda import wanda
from cutwork.quantize.qat import round_activations
from cutwork.torch_models.blocks import out_in

_MOST = 4.0  # times as much, or as little: more is noise


def corrected(
    model: Any,
    linears: Mapping[str, LinearErrors],
    batches: Sequence[dict[str, Tensor]],
    console: Console,
    group_size: int = 128,
) -> dict[str, dict[str, float]]:
    """KL divergence that each candidate costs each linear, in nats per token, by label.

    `batches` are collated examples, best of one sample each. The model stays as it is.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in linears:
        kinds[place(name)[1]].append(name)
    damages: dict[str, Damage] = {}
    for kind, names in kinds.items():
        damages[f"pruned {kind}"] = _changed(model, names, _wanda(linears))
        damages[f"rounded {kind}"] = _changed(model, names, lambda _, weight: rounded_to_int4(weight, group_size))
        damages[f"inputs {kind}"] = _with_rounded_inputs(model, names)
    measured = divergences(model, batches, damages, console)
    found: dict[str, dict[str, float]] = {}
    for kind, names in kinds.items():
        told = [sum(each) for each in zip(*(astuple(linears[name].probes) for name in names), strict=True)]
        seen = [measured[f"{part} {kind}"] for part in ("pruned", "rounded", "inputs")]
        times = Cost(*(min(max(kl / max(of, 1e-12), 1 / _MOST), _MOST) for kl, of in zip(seen, told, strict=True)))
        for name in names:
            found[name] = {label: cost.times(times) for label, cost in linears[name].costs.items()}
    return found


def _wanda(linears: Mapping[str, LinearErrors]) -> Callable[[str, Tensor], Tensor]:
    return lambda name, weight: wanda(weight, MeanSquares(linears[name].squares, 0), PROBE)[0]


def _changed(model: nn.Module, names: Sequence[str], change: Callable[[str, Tensor], Tensor]) -> Damage:
    @contextmanager
    def damage() -> Iterator[None]:
        whole: list[tuple[Tensor, Tensor]] = []
        for name in names:
            weight = out_in(model.get_submodule(name))
            whole.append((weight, weight.clone()))
            weight.copy_(change(name, weight))
        try:
            yield
        finally:
            for weight, before in whole:
                weight.copy_(before)

    return damage


def _with_rounded_inputs(model: nn.Module, names: Sequence[str]) -> Damage:
    @contextmanager
    def damage() -> Iterator[None]:
        with ExitStack() as hooks:
            for name in names:
                hooks.callback(model.get_submodule(name).register_forward_pre_hook(round_activations).remove)
            yield

    return damage
