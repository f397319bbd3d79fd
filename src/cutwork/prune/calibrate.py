"""Walks a model block by block with calibration data, holding one block's Hessians at a time."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

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

    In the place of those that are left out others are drawn, while there are any.

    Raises CutworkError if there are none, or as `examples` does.
    """
    if not samples:
        raise CutworkError("calibration needs samples; give a task or a JSONL file")
    generator = random.Random(seed)
    drawn = generator.sample(range(len(samples)), min(count, len(samples)))
    others = sorted(set(range(len(samples))).difference(drawn))
    generator.shuffle(others)
    return examples(tokenizer, [samples[i] for i in (*drawn, *others)], max_length, model_inputs, long, count)


def calibration_batches(data: Iterable[Example], tokens: int = _TOKENS_PER_BATCH) -> list[dict[str, Tensor]]:
    """Examples of similar length in batches of up to so many tokens, in an encoder and in its decoder, but of one
    example at least; recordings come one in a batch."""
    batches: list[dict[str, Tensor]] = []
    batch: list[Example] = []
    for example in sorted(data, key=_length):
        if batch and (len(batch) + 1) * _length(example) > tokens:
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

    walker = _Walker(model, parts, changes, activations, resident, bfloat16)
    walker.walk(judged, console, description)


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
    walker = _Walker(model, parts, False, activations, resident, None)
    walker.walk(visit, console, description)


class _Walker(Generic[Statistics]):
    """Leads calibration batches through the blocks of a model. Arguments as for `walk`."""

    def __init__(
        self,
        model: Any,
        parts: Sequence[_Part[Statistics]],
        changes: bool,
        activations: Activations | None,
        resident: Resident,
        bfloat16: bool | None,
    ) -> None:
        model.eval()
        self._model, self._parts, self._changes, self._resident = model, parts, changes, resident
        self._stacks = block_lists(model)
        self._device = next(model.parameters()).device
        self._bfloat16 = wants_bfloat16("auto", self._device) if bfloat16 is None else bfloat16
        self._inputs = inputs_of(model.config)
        self._activations = activations or Activations(budget=None)
        self._flows = [
            [_Batch({key: value.to(self._device) for key, value in batch.items()}) for batch in batches]
            for batches, _, _ in parts
        ]
        self._batches = [batch for flow in self._flows for batch in flow]

    def walk(self, visit: Callable[..., None], console: Console, description: str) -> None:
        """Every block of every stack. visit: as `Visit`, but for statistics of each part."""
        total = sum(len(blocks) for blocks in self._stacks.values())
        with torch.no_grad(), progress_bar(console) as progress:
            bar = progress.add_task(description, total=total)
            while any(stack not in self._batches[0].done for stack in self._stacks):
                stack = self._enter()
                for index, block in enumerate(self._stacks[stack]):
                    with self._resident(block):
                        self._visit_block(stack, index, visit)
                    progress.advance(bar)
                for batch in self._batches:
                    batch.done[stack] = batch.hidden
        if not console.is_terminal:
            console.print(f"{description}: {total} blocks done")

    def _enter(self) -> str:
        """Find the stack that is called next, and what the model hands to its blocks.

        By forward passes in which the blocks only take notes, and those of finished stacks repeat what they gave.
        """
        notes = _Notes(self._stacks, self._activations, self._resident)
        # Matrices in bfloat16 beside vectors in float32 (tune/student_and_teacher.py) are multiplied under autocast
        # only.
        with self._autocast(self._bfloat16 and self._model.dtype == torch.bfloat16), notes.taken():
            for batch in self._batches:
                notes.begin(batch)
                try:
                    self._model(**self._inputs.keywords(batch.inputs))
                except _EnoughSeenError:
                    continue
                raise CutworkError(
                    f"{type(self._model).__name__} does not call all of its blocks in order, so it cannot be calibrated"
                )
        assert notes.stack
        return notes.stack

    def _visit_block(self, stack: str, index: int, visit: Callable[..., None]) -> None:
        block = self._stacks[stack][index]
        names = {linear: f"{stack}.{index}.{name}" for name, linear in linears(block)}
        watches = [InputWatch(names, gather, weights) for _, gather, weights in self._parts]
        for watch, flow in zip(watches, self._flows, strict=True):
            self._watch(watch, flow, stack, index)
        for together in zip(*(watch.groups() for watch in watches), strict=True):
            visit({names[linear]: linear for linear in together[0][0]}, *(each for _, each in together))
            del together  # the next block's Hessians need their memory
        last = index + 1 == len(self._stacks[stack])
        if self._changes and not (last and len(self._batches[0].done) + 1 == len(self._stacks)):
            for batch in self._batches:
                batch.hidden = self._activations.replace(batch.hidden, self._run(block, batch, index))

    def _watch(self, watch: InputWatch[Statistics], flow: Sequence[_Batch], stack: str, index: int) -> None:
        """Show a block's linears a flow of batches, which go on at once if nothing changes the block."""
        blocks = self._stacks[stack]
        with watch:
            for batch in flow:
                watch.expect(*masks(self._model, blocks, batch.inputs), batch.calls[index])
                output = self._run(blocks[index], batch, index)
                if not self._changes:
                    batch.hidden = self._activations.replace(batch.hidden, output)

    def _run(self, block: nn.Module, batch: _Batch, index: int) -> Tensor:
        """The hidden states [B, T, D] that a block makes of a batch's."""
        args, kwargs = batch.calls[index]
        # Entered anew for every call: autocast remembers its copies of weights, which `visit` changes.
        with self._autocast(self._bfloat16):
            output = block(batch.hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def _autocast(self, enabled: bool) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)


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
