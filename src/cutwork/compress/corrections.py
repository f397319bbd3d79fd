"""What errors of a kind of linear cost together, measured, beside what was predicted for each alone.

Predictions (`sensitivity.py`) take tokens as if their errors knew nothing of each other, and weights from some rows and
blocks; those of one text are alike, and errors add up or are evened out. So all linears of a kind become at once what a
candidate makes of them: pruned, in 4 bits, or with inputs in 8 bits. How many times as much as predicted that costs,
each part of their candidates' costs is multiplied by.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.linear_errors import PRUNED, ROUNDED, Cost, LinearErrors
from cutwork.compress.sensitivity import Damage, divergences
from cutwork.quantize.qat import round_activations
from cutwork.store.block_names import place
from cutwork.torch_models.blocks import out_in

_MOST = 4.0  # times as much, or as little: more is noise


def corrected(
    model: Any, linears: Mapping[str, LinearErrors], batches: Sequence[dict[str, Tensor]], console: Console
) -> dict[str, dict[str, float]]:
    """KL divergence that each candidate costs each linear, in nats per token, by label.

    `batches` are collated examples, best of one sample each. The model stays as it is.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in linears:
        kinds[place(name)[1]].append(name)
    damages: dict[str, Damage] = {}
    for kind, names in kinds.items():
        for label in (PRUNED, ROUNDED):
            if made := {name: linears[name].made[label] for name in names if label in linears[name].made}:
                damages[f"{label} {kind}"] = with_weights(model, made)
        damages[f"inputs {kind}"] = _with_rounded_inputs(model, names)
    measured = divergences(model, batches, damages, console)
    found: dict[str, dict[str, float]] = {}
    for kind, names in kinds.items():
        costs = [linears[name].costs for name in names]
        told = {
            PRUNED: sum(each[PRUNED].pruned for each in costs),
            ROUNDED: sum(each[ROUNDED].rounded for each in costs if ROUNDED in each),
            "inputs": sum(each[ROUNDED].inputs for each in costs if ROUNDED in each),
        }
        times = Cost(*(_times(measured.get(f"{part} {kind}", 0.0), of) for part, of in told.items()))
        for name in names:
            found[name] = {label: cost.times(times) for label, cost in linears[name].costs.items()}
    return found


def _times(measured: float, told: float) -> float:
    return min(max(measured / max(told, 1e-12), 1 / _MOST), _MOST)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Damage:
    """Linears, by name, with other weights [out, in]."""

    @contextmanager
    def damage() -> Iterator[None]:
        whole: list[tuple[Tensor, Tensor]] = []
        for name, left in weights.items():
            weight = out_in(model.get_submodule(name))
            whole.append((weight, weight.clone()))
            weight.copy_(left)
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
