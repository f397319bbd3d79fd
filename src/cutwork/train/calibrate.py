"""Walks a model block by block with calibration data, holding one block's Hessians at a time."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.errors import CutworkError
from cutwork.tasks.task import Sample
from cutwork.train.blocks import block_lists, linears
from cutwork.train.console import progress_bar
from cutwork.train.data import collate, examples
from cutwork.train.family import Example
from cutwork.train.obs import Statistics
from cutwork.train.precision import wants_bfloat16

_TOKENS_PER_BATCH = 2048

Visit = Callable[[dict[str, nn.Module], Statistics], None]


@dataclass
class _Batch:
    """One calibration batch on its way through the blocks."""

    hidden: Tensor  # [B, T, D], what the next block will see
    mask: Tensor  # bool [B, T]: tokens that are not padding
    calls: list[tuple[tuple, dict[str, Any]]]  # each block's other arguments


def calibration_batches(
    tokenizer: Any, samples: Sequence[Sample], count: int, max_length: int, seed: int
) -> list[dict[str, Tensor]]:
    """At most `count` samples drawn at random, in batches of about 2,048 tokens of similar length."""
    if not samples:
        raise CutworkError("calibration needs samples; give a task or a JSONL file")
    drawn = random.Random(seed).sample(range(len(samples)), min(count, len(samples)))
    rendered = sorted(
        examples(tokenizer, [samples[i] for i in drawn], max_length), key=lambda example: len(example["input_ids"])
    )
    batches: list[dict[str, Tensor]] = []
    batch: list[Example] = []
    for example in rendered:
        if batch and (len(batch) + 1) * len(example["input_ids"]) > _TOKENS_PER_BATCH:
            batches.append(collate(batch))
            batch = []
        batch.append(example)
    return [*batches, collate(batch)]


def walk(model: Any, batches: Sequence[dict[str, Tensor]], visit: Visit, console: Console, description: str) -> None:
    """Visit the linears of every block in order; what `visit` does to their weights is seen by the blocks behind.

    `visit(linears by full name, statistics)` is called for each group of linears that share their input. Memory
    beyond the model: the hidden states of all samples and one block's Hessians.
    """
    stacks = block_lists(model)
    if len(stacks) > 1:
        raise CutworkError(f"cannot calibrate a model with {len(stacks)} stacks of blocks yet: {', '.join(stacks)}")
    [(stack, blocks)] = stacks.items()
    model.eval()
    device = next(model.parameters()).device
    bfloat16 = wants_bfloat16("auto", device)

    def run(block: nn.Module, batch: _Batch, index: int) -> Tensor:
        args, kwargs = batch.calls[index]
        # Entered anew for every call: autocast remembers its copies of weights, which `visit` changes.
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = block(batch.hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    with torch.no_grad(), progress_bar(console) as progress:
        flowing = [_enter(model, blocks, {key: value.to(device) for key, value in batch.items()}) for batch in batches]
        bar = progress.add_task(description, total=len(blocks), note="")
        for index, block in enumerate(blocks):
            names = {linear: f"{stack}.{index}.{name}" for name, linear in linears(block)}
            with _Watch(names) as watch:
                for batch in flowing:
                    watch.mask = batch.mask
                    run(block, batch, index)
            for group, statistics in watch.groups():
                visit({names[linear]: linear for linear in group}, statistics)
            if index + 1 < len(blocks):
                for batch in flowing:
                    batch.hidden = run(block, batch, index)
            progress.advance(bar)
    if not console.is_terminal:
        console.print(f"{description}: {len(blocks)} blocks done")


class _EnoughSeenError(Exception):
    """Raised out of the model's forward pass once all blocks have been called."""


def _enter(model: Any, blocks: nn.ModuleList, batch: dict[str, Tensor]) -> _Batch:
    """What the model hands to its blocks, found by a forward pass in which the blocks only take notes."""
    entered = _Batch(torch.empty(0), batch["attention_mask"].bool(), [])
    with _note_takers(blocks, entered):
        try:
            # As in training: behind a causal mask no real token sees the padding to its right.
            model(input_ids=batch["input_ids"], use_cache=False)
        except _EnoughSeenError:
            return entered
    raise CutworkError(f"{type(model).__name__} does not call all of its blocks in order, so it cannot be calibrated")


@contextmanager
def _note_takers(blocks: nn.ModuleList, batch: _Batch) -> Iterator[None]:
    originals = [block.forward for block in blocks]
    returns_tuple = False

    def note(index: int, *args: Any, **kwargs: Any) -> Any:
        nonlocal returns_tuple
        hidden = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        args = args[1:] if args else ()
        if index == 0:
            batch.hidden = hidden
            # Older blocks return a tuple; one real call tells, on a sliver of the batch's work.
            returns_tuple = isinstance(originals[0](hidden, *args, **kwargs), tuple)
        batch.calls.append((args, kwargs))
        if len(batch.calls) == len(blocks):
            raise _EnoughSeenError
        return (hidden,) if returns_tuple else hidden

    try:
        for index, block in enumerate(blocks):
            block.forward = lambda *args, _index=index, **kwargs: note(_index, *args, **kwargs)
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


class _Watch:
    """Sums x xᵀ over the tokens that linears see while it is entered, once for linears that share their input."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.mask = torch.empty(0)
        self._names = names
        self._leader: dict[nn.Module, nn.Module] = {}
        self._sums: dict[nn.Module, Tensor] = {}
        self._tokens: dict[nn.Module, int] = {}
        self._last: tuple[nn.Module, Tensor] | None = None  # the leader that ran last and its input
        self._handles: list[Any] = []

    def __enter__(self) -> "_Watch":
        self._handles = [linear.register_forward_pre_hook(self._see) for linear in self._names]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._last = None

    def groups(self) -> Iterator[tuple[list[nn.Module], Statistics]]:
        """Linears with equal inputs and their statistics; frees each Hessian once the next is asked for."""
        for leader in list(self._sums):
            group = [linear for linear in self._names if self._leader.get(linear) is leader]
            tokens = self._tokens[leader]
            yield group, Statistics(self._sums.pop(leader).div_(max(tokens, 1)), tokens)

    def _see(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if linear not in self._leader:
            shares = self._last is not None and self._last[1] is x
            self._leader[linear] = self._last[0] if self._last and shares else linear
        if self._leader[linear] is not linear:
            return
        self._last = (linear, x)
        # Some models flatten [B, T] on the way; where tokens are arranged otherwise (experts), all of them count.
        flat = x.flatten(0, -2).float()
        real = flat[self.mask.flatten()] if len(flat) == self.mask.numel() else flat
        self._tokens[linear] = self._tokens.get(linear, 0) + len(real)
        with torch.autocast(real.device.type, enabled=False):  # a Hessian in bfloat16 would not be positive definite
            if linear in self._sums:
                self._sums[linear].addmm_(real.T, real)
            else:
                self._sums[linear] = real.T @ real
