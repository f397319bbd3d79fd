"""Walks a model block by block with calibration data, holding one block's Hessians at a time."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from cutwork.architectures import kind_of
from cutwork.errors import CutworkError
from cutwork.progress import progress_bar
from cutwork.prune.activations import Activations
from cutwork.prune.input_statistics import AllInputs, Hessian, InputWatch, MeanSquares, Sum, SumOfProducts, SumOfSquares
from cutwork.recipe import Long
from cutwork.tasks.rendering import IGNORED
from cutwork.tasks.task import Sample
from cutwork.torch_models.blocks import block_lists, linears
from cutwork.torch_models.data import Examples, collate, examples
from cutwork.torch_models.model_inputs import Example, ModelInputs, inputs_of
from cutwork.torch_models.precision import wants_bfloat16

_TOKENS_PER_BATCH = 2048

Statistics = TypeVar("Statistics")
Visit = Callable[[dict[str, nn.Module], Statistics], None]  # (linears that share their input by full name, about it)
# (batches, how the inputs of one linear are gathered, weights of their tokens)
_Part = tuple[Sequence[dict[str, Tensor]], Callable[[int, torch.device], Sum[Statistics]], Mapping[str, Tensor] | None]
Resident = Callable[[nn.Module], AbstractContextManager[None]]


@dataclass
class _Batch:
    """One calibration batch on its way through the stacks of blocks."""

    inputs: dict[str, Tensor]
    done: dict[str, Tensor] = field(default_factory=dict)  # what the finished stacks' last blocks gave
    extras: dict[str, int | None] = field(default_factory=dict)  # how much blocks return beside it; None: no tuple
    # Of the stack it is in:
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))  # [B, T, D], what the next block will see
    calls: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)  # each block's other arguments


def calibration_examples(
    tokenizer: Any,
    samples: Sequence[Sample],
    count: int,
    max_length: int,
    seed: int,
    model_inputs: ModelInputs | None = None,
    long: Long = "drop",
) -> Examples:
    """At most `count` samples drawn at random, as examples of a kind of model, decoder-only by default.

    Raises CutworkError if there are none, or as `examples` does.
    """
    if not samples:
        raise CutworkError("calibration needs samples; give a task or a JSONL file")
    drawn = random.Random(seed).sample(range(len(samples)), min(count, len(samples)))
    return examples(tokenizer, [samples[i] for i in drawn], max_length, model_inputs, long)


def calibration_batches(data: Iterable[Example]) -> list[dict[str, Tensor]]:
    """Examples in batches of about 2,048 tokens of similar length, in an encoder and in its decoder; recordings come
    one in a batch."""
    batches: list[dict[str, Tensor]] = []
    batch: list[Example] = []
    for example in sorted(data, key=_length):
        if batch and (len(batch) + 1) * _length(example) > _TOKENS_PER_BATCH:
            batches.append(collate(batch))
            batch = []
        batch.append(example)
    return [*batches, collate(batch)]


def _length(example: Example) -> int:
    """Of the longer of what an encoder reads and its decoder writes, in tokens; a spectrogram fills a batch."""
    return max(len(example[key]) for key in ("input_ids", "labels")) if "input_ids" in example else _TOKENS_PER_BATCH


def walk(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    visit: Visit[Hessian],
    console: Console,
    description: str,
    *,
    damping: float = 0.01,
    changes: bool = True,
    held_out: Sequence[dict[str, Tensor]] = (),
    weights: Mapping[str, Tensor] | None = None,
    activations: Activations | None = None,
    resident: Resident = lambda _: nullcontext(),
    bfloat16: bool | None = None,
) -> None:
    """Visit the linears of every block in order; what `visit` does to their weights is seen by the blocks behind.

    Stacks are walked in the order in which the model calls them: an encoder's, then its decoder's. Memory beyond the
    model: one block's Hessians, and the hidden states of all samples.

    damping: of the Hessians that `visit` gets, where it needs them positive definite.
    changes: whether `visit` changes weights; if not, a block computes once.
    held_out: batches of which only `Hessian.held_out` is made, in their order, to judge what was made with the others.
    weights: of the batches' tokens in Hessians, by linears' names (`token_weights`); by default all count alike.
    activations: keeps the hidden states; by default in memory, up to half of what is free.
    resident: a context that is entered with each block while it computes.
    bfloat16: whether to compute under autocast; measured by default.
    """
    parts: list[_Part[Any]] = [(batches, partial(SumOfProducts, damping=damping), weights)]
    if held_out:
        parts.append((held_out, AllInputs, None))

    def judged(group: dict[str, nn.Module], statistics: Hessian, inputs: Tensor | None = None) -> None:
        statistics.held_out = inputs
        visit(group, statistics)

    _walk(model, parts, judged, changes, console, description, activations, resident, bfloat16)


def survey(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    visit: Visit[MeanSquares],
    console: Console,
    description: str,
    *,
    activations: Activations | None = None,
    resident: Resident = lambda _: nullcontext(),
) -> None:
    """Like `walk`, for a `visit` that leaves the weights alone and needs only mean squares: half of the time."""
    parts: list[_Part[MeanSquares]] = [(batches, SumOfSquares, None)]
    _walk(model, parts, visit, False, console, description, activations, resident, None)


def _walk(
    model: Any,
    parts: Sequence[_Part[Statistics]],
    visit: Callable[..., None],  # (as in Visit, statistics of each part)
    changes: bool,
    console: Console,
    description: str,
    activations: Activations | None,
    resident: Resident,
    bfloat16: bool | None,
) -> None:
    stacks = block_lists(model)
    model.eval()
    device = next(model.parameters()).device
    bfloat16 = wants_bfloat16("auto", device) if bfloat16 is None else bfloat16
    inputs = inputs_of(model.config)
    activations = activations or Activations(budget=None)
    total = sum(len(blocks) for blocks in stacks.values())

    def run(block: nn.Module, batch: _Batch, index: int) -> Tensor:
        args, kwargs = batch.calls[index]
        # Entered anew for every call: autocast remembers its copies of weights, which `visit` changes.
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = block(batch.hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    with torch.no_grad(), progress_bar(console) as progress:
        flows = [
            [_Batch({key: value.to(device) for key, value in batch.items()}) for batch in batches]
            for batches, _, _ in parts
        ]
        flowing = [batch for flow in flows for batch in flow]
        bar = progress.add_task(description, total=total)
        while any(stack not in flowing[0].done for stack in stacks):
            # Matrices in bfloat16 beside vectors in float32 (tune/student_and_teacher.py) are multiplied under autocast
            # only.
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16 and model.dtype == torch.bfloat16):
                stack = _enter(model, stacks, flowing, inputs, activations, resident)
            for index, block in enumerate(stacks[stack]):
                names = {linear: f"{stack}.{index}.{name}" for name, linear in linears(block)}
                with resident(block):
                    watches = [InputWatch(names, gather, weights) for _, gather, weights in parts]
                    for watch, flow in zip(watches, flows, strict=True):
                        with watch:
                            for batch in flow:
                                watch.expect(*masks(model, stacks[stack], batch.inputs), batch.calls[index])
                                output = run(block, batch, index)
                                if not changes:
                                    batch.hidden = activations.replace(batch.hidden, output)
                    for together in zip(*(watch.groups() for watch in watches), strict=True):
                        visit({names[linear]: linear for linear in together[0][0]}, *(each for _, each in together))
                        del together  # the next block's Hessians need their memory
                    last = index + 1 == len(stacks[stack])
                    if changes and not (last and len(flowing[0].done) + 1 == len(stacks)):
                        for batch in flowing:
                            batch.hidden = activations.replace(batch.hidden, run(block, batch, index))
                progress.advance(bar)
            for batch in flowing:
                batch.done[stack] = batch.hidden
    if not console.is_terminal:
        console.print(f"{description}: {total} blocks done")


def masks(model: Any, part: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Which positions [B, T] of the hidden states of a stack or another part of a model, and of its encoder's, are real
    tokens; None if all are."""
    source = batch["attention_mask"].bool() if "attention_mask" in batch else None
    if kind_of(model.config.to_dict()) in ("text", "embedding"):
        return source, source
    if any(module is part for module in model.get_encoder().modules()):
        return source, source
    return batch["labels"] != IGNORED, source


class _EnoughSeenError(Exception):
    """Raised out of the model's forward pass once all blocks of a stack have been called."""


def _enter(
    model: Any,
    stacks: dict[str, nn.ModuleList],
    flowing: list[_Batch],
    model_inputs: ModelInputs,
    activations: Activations,
    resident: Resident,
) -> str:
    """Find the stack that is called next, and what the model hands to its blocks.

    By forward passes in which the blocks only take notes, and those of finished stacks repeat what they gave.
    """
    notes = _Notes(stacks, activations, resident)
    with notes.taken():
        for batch in flowing:
            notes.begin(batch)
            try:
                model(**model_inputs.keywords(batch.inputs))
            except _EnoughSeenError:
                continue
            raise CutworkError(
                f"{type(model).__name__} does not call all of its blocks in order, so it cannot be calibrated"
            )
    assert notes.stack
    return notes.stack


class _Notes:
    """What the blocks of one stack are called with, batch by batch."""

    def __init__(self, stacks: dict[str, nn.ModuleList], activations: Activations, resident: Resident) -> None:
        self.stack: str | None = None  # the first that is not done
        self._stacks, self._activations, self._resident = stacks, activations, resident
        self._originals = {block: block.forward for blocks in stacks.values() for block in blocks}
        self._known = False  # whether the next two are known
        self._extras: int | None = None  # as in _Batch
        self._tail: tuple = ()  # what the stack's first block returned behind the hidden states

    def begin(self, batch: _Batch) -> None:
        """Take notes of another batch."""
        self._batch, self._held = batch, {}  # type: ignore[var-annotated]
        batch.calls = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The blocks' forward passes are ours inside of this."""
        try:
            for stack, blocks in self._stacks.items():
                for index, block in enumerate(blocks):
                    block.forward = partial(self._called_with, stack, index)
            yield
        finally:
            for block in self._originals:
                del block.forward  # the class's own shows again

    def _called_with(self, stack: str, index: int, *args: Any, **kwargs: Any) -> Any:
        batch, block = self._batch, self._stacks[stack][index]
        if stack in batch.done:
            extras = batch.extras[stack]
            return batch.done[stack] if extras is None else (batch.done[stack], *(None,) * extras)
        hidden = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        args = args[1:] if args else ()
        if index == 0:
            self.stack = stack
            batch.hidden = self._activations.hold(hidden)
            self._try_first(block, hidden, args, kwargs)
        batch.calls.append(self._activations.hold_all((args, kwargs), self._held))
        if len(batch.calls) == len(self._stacks[stack]):
            raise _EnoughSeenError
        return hidden if self._extras is None else (hidden, *self._tail)

    def _try_first(self, block: nn.Module, hidden: Tensor, args: tuple, kwargs: dict[str, Any]) -> None:
        """Learn by a real call whether blocks return tuples; T5's share a position bias that the first one makes."""
        assert self.stack
        if not self._known or self._tail:  # what comes behind the hidden states differs between batches
            with self._resident(block):
                output = self._originals[block](hidden, *args, **kwargs)
            self._tail = output[1:] if isinstance(output, tuple) else ()
            self._extras = len(self._tail) if isinstance(output, tuple) else None
            self._known = True
        self._batch.extras[self.stack] = self._extras
