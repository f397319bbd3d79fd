"""What an output error in one place costs the whole model: the KL divergence of its next token, measured.

Small errors add up: KL ≈ Σ sensitivity · relative output error. The sensitivity of a linear is taken to be that of its
block times that of its kind, which a few measurements tell: one for each of some blocks and one for each kind, in
which what is measured loses a known part (`errors.PROBE`). Kinds are measured once more with weights in 4 bits: what
rounding leaves lies elsewhere than what pruning does, at the tokens that all others attend to for one, and there it
costs more. The output head is measured as it would be stored.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.compress.errors import PROBE, LinearErrors, rounded_to_int4
from cutwork.progress import progress_bar
from cutwork.prune.input_statistics import MeanSquares
from cutwork.prune.wanda import wanda
from cutwork.quantize.qat import round_activations
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of
from cutwork.torch_models.blocks import block_lists, out_in
from cutwork.torch_models.model_inputs import inputs_of

_BLOCKS = 8  # of which the sensitivity is measured; that of the others lies between
_LOGITS = 1 << 27  # of whole models, at most, beside those of one sample more
_ROUNDS = 50
_LEAST = 1e-9  # of a measured KL: rounding may make it 0


def sensitivities(
    model: Any,
    linears_: Mapping[str, LinearErrors],
    batches: Sequence[dict[str, Tensor]],
    console: Console,
    group_size: int = 128,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """KL per relative output error of each linear, the same where weights were rounded, and KL of the head by dtype.

    In nats per token; dtypes i8 and i4. `batches` are collated examples, best of one sample each: some logits are
    in memory.
    """
    places = {name: _place(name, model) for name in linears_}
    blocks = list(dict.fromkeys(block for block, _ in places.values()))
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    measured = [blocks[i] for i in sorted({round(x) for x in np.linspace(0, len(blocks) - 1, _BLOCKS)})]
    damages: dict[tuple[str, str], Damage] = {}
    for axis, values in (("block", measured), ("kind", kinds)):
        for value in values:
            chosen = [name for name, place in places.items() if place[axis == "kind"] == value]
            damages[axis, value] = _pruned(model, {name: linears_[name].squares for name in chosen})
    for kind in kinds:
        chosen = [name for name, place in places.items() if place[1] == kind]
        damages["rounding", kind] = _in_int4(model, chosen, group_size)
    head = model.get_output_embeddings()
    if head is not None:
        damages |= {("head", dtype): _rounded(head, dtype) for dtype in ("i8", "i4")}
    divergences = _divergences(model, batches, damages, console)
    errors, rounding = np.zeros((2, len(blocks), len(kinds)))
    for name, (block, kind) in places.items():
        errors[blocks.index(block), kinds.index(kind)] += linears_[name].probe
        rounding[blocks.index(block), kinds.index(kind)] += linears_[name].rounding_probe
    of_blocks = {blocks.index(block): divergences["block", block] for block in measured}
    of_kinds = np.array([divergences["kind", kind] for kind in kinds])
    by_block, by_kind = fit(errors, of_blocks, of_kinds)
    of_rounding = np.array([divergences["rounding", kind] for kind in kinds])
    by_kind_rounded = of_rounding / np.maximum(by_block @ rounding, 1e-30)

    def each(factors: np.ndarray) -> dict[str, float]:
        return {name: float(by_block[blocks.index(b)] * factors[kinds.index(k)]) for name, (b, k) in places.items()}

    of_the_head = {dtype: kl for (axis, dtype), kl in divergences.items() if axis == "head"}
    return each(by_kind), each(by_kind_rounded), of_the_head


def fit(errors: np.ndarray, of_blocks: Mapping[int, float], of_kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivities of blocks [B] and kinds [K] whose products explain what was measured.

    `errors` [B, K] is what each kind of linear in each block lost, `of_blocks` the KL of some blocks alone, `of_kinds`
    [K] that of every kind alone. By turns, each given the other; blocks between the measured ones lie between them.
    """
    some, kls = list(of_blocks), np.array(list(of_blocks.values()))
    by_kind, places = np.ones(len(of_kinds)), np.arange(len(errors))
    for _ in range(_ROUNDS):
        own = kls / np.maximum(errors[some] @ by_kind, 1e-30)
        by_block = np.exp(np.interp(places, some, np.log(own)))
        by_kind = of_kinds / np.maximum(by_block @ errors, 1e-30)
        by_kind /= by_kind.mean()
    return by_block, by_kind


Damage = Callable[[], Any]  # makes a context in which the model is damaged


def _divergences(
    model: Any, batches: Sequence[dict[str, Tensor]], damages: Mapping[Any, Damage], console: Console
) -> dict[Any, float]:
    """The mean KL divergence per token of each damaged model from the whole one."""
    totals: dict[Any, float] = defaultdict(float)
    tokens = 0
    inputs = inputs_of(model.config)

    def log_probabilities(batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = model(**inputs.keywords(batch)).logits
        return logits[batch["attention_mask"].bool()].float().log_softmax(-1)

    with torch.inference_mode(), progress_bar(console) as progress:
        bar = progress.add_task("sensitivities", total=len(batches) * len(damages))
        waiting = list(batches)
        while waiting:
            together: list[tuple[dict[str, Tensor], Tensor]] = []  # a model is damaged once for as many as fit
            while waiting and sum(whole.numel() for _, whole in together) < _LOGITS:
                together.append((waiting[0], log_probabilities(waiting.pop(0))))
            tokens += sum(len(whole) for _, whole in together)
            for key, damage in damages.items():
                with damage():
                    for batch, whole in together:
                        totals[key] += (whole.exp() * (whole - log_probabilities(batch))).sum().item()
                        progress.advance(bar)
    return {key: max(total / tokens, _LEAST) for key, total in totals.items()}


def _place(name: str, model: nn.Module) -> tuple[str, str]:
    """(block, what the linear is called in it)."""
    for stack in block_lists(model):
        if name.startswith(f"{stack}."):
            index, _, kind = name.removeprefix(f"{stack}.").partition(".")
            return f"{stack}.{index}", kind
    raise AssertionError(name)


def _pruned(model: nn.Module, squares: Mapping[str, Tensor]) -> Damage:
    return _changed(model, list(squares), lambda name, weight: wanda(weight, MeanSquares(squares[name], 0), PROBE)[0])


def _in_int4(model: nn.Module, names: Sequence[str], group_size: int) -> Damage:
    return _changed(model, names, lambda _, weight: rounded_to_int4(weight, group_size))


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


def _rounded(head: nn.Module, dtype: str) -> Damage:
    @contextmanager
    def damage() -> Iterator[None]:
        weight = out_in(head)
        before = weight.clone()
        grid = grid_of("w8a8" if dtype == "i8" else "w4a16", weight.shape[1], 128, torch.float32)
        weight.copy_(rtn(weight.float(), grid).weight())
        hook = head.register_forward_pre_hook(round_activations)
        try:
            yield
        finally:
            weight.copy_(before)
            hook.remove()

    return damage
