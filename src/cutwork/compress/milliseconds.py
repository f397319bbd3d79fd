"""What every candidate takes on this machine, measured: milliseconds of each linear in a step, and bytes.

For each candidate all linears of the model become random numbers that are stored so, and steps are profiled. So a
price has in it what no rate of a kernel alone tells: an op's begin and end, what stays in caches, linears that share
an op. Of such an op each linear pays by its rows.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal, Self, TypeVar

import numpy as np
import torch
from rich.console import Console

from cutwork.architectures import architecture_of, build_plan
from cutwork.architectures.architecture import HEAD
from cutwork.compress.candidates import CANDIDATES, DENSE, Candidate
from cutwork.engine.explain import StepProfile, profile_step
from cutwork.engine.load_options import LoadOptions
from cutwork.engine.model import Model
from cutwork.engine.weights.costs import have_measured, measure_costs
from cutwork.measure.context import room
from cutwork.pack.convert import convert
from cutwork.pack.int4 import RUN_COLS, encode_int4, runs_of
from cutwork.pack.manifest import Source
from cutwork.pack.masked import encode
from cutwork.pack.reader import PackedModel
from cutwork.pack.record import EncodedWeight
from cutwork.pack.slots import in_slots
from cutwork.pack.source import SourceCheckpoint
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Linear, Logits, Op
from cutwork.progress import progress_bar
from cutwork.quantize.rtn import rtn
from cutwork.quantize.schemes import grid_of
from cutwork.recipe import Scheme
from cutwork.store import bfloat16

T = TypeVar("T")
Purpose = Literal["decode", "prefill", "batch16"]
SEQUENCES: dict[Purpose, int] = {"decode": 1, "prefill": 1, "batch16": 16}  # of a step
TOKENS: dict[Purpose, int] = {"decode": 1, "prefill": 512, "batch16": 1}  # of each
_CONTEXT = 256  # tokens that a decoded one attends to
# Steps of which the median counts, as many as take so long: the first ones of each profile, right after a prompt, take
# up to twice as long as what follows, the more the fewer bytes they read.
_STEPS, _STEPS_SECONDS = (4, 64), 0.25
_LEAST_SECONDS = 0.5  # that one load of a model is profiled
# Rounds through all candidates. What a step takes differs by a tenth and more from one second to the next, and the
# least of many would be luck, so what is usual counts, of as many loads as time allows.
_ROUNDS, _MOST_SECONDS = (2, 8), 240.0
_BETWEEN = 12  # other candidates between two loads of the dense bfloat16 one, whose price is in every speed-up
_ROWS = 256  # of random numbers, over and over
_OTHER, _HEAD = "", "output head"  # what is no linear of a block


@dataclass(frozen=True)
class Price:
    """What one linear takes in one step, and in memory."""

    milliseconds: float
    nbytes: float


class Steps:
    """What a step of a model takes, whichever candidate its linears are; `threads` 0 for all of the machine.

    linears: by their names in plans. head: by "dense bf16", "dense w8a8" and "dense w4a16", in which it has
    a weight of its own and bytes of what its embedding takes more. other: what is paid in any case.
    """

    def __init__(self, linears: Mapping[str, Mapping[str, Price]], head: Mapping[str, Price], other: Price) -> None:
        self.linears, self.head, self.other = linears, head, other

    @classmethod
    def measured(
        cls,
        model_dir: Path,
        purpose: Purpose,
        threads: int = 0,
        group_size: int = 128,
        console: Console | None = None,
        candidates: Sequence[Candidate] = CANDIDATES,
        after_round: Callable[[], None] = lambda: None,
    ) -> Self:
        """Of the decoder-only model in a directory; `after_round` is called whenever all candidates have been timed.

        Raises CutworkError for what cannot be loaded.
        """
        if not have_measured():
            measure_costs()  # by which weights are laid out
        packed = in_bfloat16(model_dir)
        plan = build_plan(packed.config)
        blocks = names_read(plan, Linear)
        loads: dict[Candidate, list[_Load]] = defaultdict(list)
        with progress_bar(console) as progress:
            in_turn = _in_turn(candidates)
            for candidate in progress.track(
                _in_rounds(in_turn, after_round), len(in_turn) * _ROUNDS[1], description="milliseconds"
            ):
                anew = random_model(packed, plan, dict.fromkeys(blocks, candidate), candidate.scheme, group_size)
                with Model(anew, **options_for(anew, purpose, threads)) as model:
                    loads[candidate].append(_Load.of(model, purpose))
        usual = {candidate: _Load.usual(each) for candidate, each in loads.items()}
        linears = {
            name: {
                candidate.label: load.price(name)
                for candidate, load in usual.items()
                if candidate.fits(*plan.weights[name])
            }
            for name in blocks
        }
        # All that is read is like the candidate where there are no zeros.
        dense = usual[DENSE].nbytes[_OTHER]
        of_head = {
            each.label: Price(price.milliseconds, price.nbytes + load.nbytes[_OTHER] - dense)  # with its embedding
            for each, load in usual.items()
            if not each.sparsity
            for price in [load.price(_HEAD)]
        }
        others = median(load.price(_OTHER).milliseconds for load in usual.values())
        return cls(linears, of_head, Price(others, dense))

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        linears = {name: {label: asdict(price) for label, price in each.items()} for name, each in self.linears.items()}
        head = {label: asdict(price) for label, price in self.head.items()}
        return {"other": asdict(self.other), "head": head, "linears": linears}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        linears = {
            name: {label: Price(**price) for label, price in each.items()} for name, each in found["linears"].items()
        }
        return cls(linears, {label: Price(**price) for label, price in found["head"].items()}, Price(**found["other"]))


def _in_turn(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A round: the dense one again and again between the others."""
    others = [each for each in candidates if each != DENSE]
    starts = range(0, max(len(others), 1), _BETWEEN)
    return [each for start in starts for each in (DENSE, *others[start : start + _BETWEEN])]


def _in_rounds(candidates: Sequence[Candidate], after_round: Callable[[], None]) -> Iterator[Candidate]:
    begin, (least, most) = time.perf_counter(), _ROUNDS
    for done in range(most):
        if done >= least and time.perf_counter() - begin > _MOST_SECONDS:
            return
        yield from candidates
        after_round()


def in_bfloat16(model_dir: Path) -> PackedModel:
    """The model as it is packed in the end: what stays as it is counts with the bytes that it has there."""
    source = SourceCheckpoint(model_dir)
    weights = {name: convert(name, source.weight(name), "bf16") for name in source.names}
    return PackedModel(model_dir, source.config, weights, Source(kind=source.kind))


def random_model(
    packed: PackedModel, plan: Plan, linears: Mapping[str, Candidate], head: Scheme | None, group_size: int
) -> PackedModel:
    """A model whose linears, by their names in plans, are random numbers stored as candidates, and its head in a number
    format: in int4 a weight of its own beside an embedding in int8."""
    architecture, example = architecture_of(packed.config), cache(_example)
    stored = {architecture.plan_name(name): name for name in packed.weights}
    anew = {stored[name]: example(of, *plan.weights[name], group_size) for name, of in linears.items()}
    config, embedding = packed.config, stored[architecture.embedding]
    for name in names_read(plan, Logits):
        of_head = example(replace(DENSE, scheme=head), *plan.weights[name], group_size)
        if head != "w4a16":
            anew[stored.get(name, embedding)] = of_head
            continue
        config = {**config, "tie_word_embeddings": False}
        anew[stored.get(HEAD, HEAD)] = of_head
        rows, columns = plan.weights[architecture.embedding]
        anew[embedding] = example(replace(DENSE, scheme="w8a8"), rows, columns, group_size)
    return replace(packed, config=config, weights={**packed.weights, **anew})


def options_for(model: PackedModel, purpose: Purpose, threads: int) -> LoadOptions:
    """How a model is loaded whose step is timed."""
    reorder = False if purpose == "decode" else None  # as the commands where much comes at once do
    context = room(model.config, _CONTEXT + TOKENS[purpose])
    sequences = SEQUENCES[purpose]
    return {"threads": threads, "max_batch": sequences, "max_context": context, "reorder_weights": reorder}


@dataclass(frozen=True)
class _Load:
    """What a step took after one load of a model, and bytes: of each weight that ops multiply by, by its name in plans,
    and of the others together."""

    seconds: Mapping[str, float]
    nbytes: Mapping[str, float]

    @classmethod
    def of(cls, model: Model, purpose: Purpose) -> Self:
        """Of the usual step of a while. Ops of the same shapes are alike, so all have the mean of theirs, and all
        together what the step took. An op's weights share its time by their rows."""
        ops = usual_step(model, purpose).ops
        shapes = model.plan.weights
        alike: dict[Any, list[float]] = defaultdict(list)
        for op in ops:
            alike[op.kind, tuple(shapes[name] for name in op.weights)].append(op.seconds)
        seconds = {_OTHER: sum(op.seconds for op in ops if not op.weights)}
        for op in ops:
            each = mean(alike[op.kind, tuple(shapes[name] for name in op.weights)])
            rows = sum(shapes[name][0] for name in op.weights)
            seconds |= {name: each * shapes[name][0] / rows for name in op.weights}
        read = {name: model.weights[name] for name in seconds if name != _OTHER}
        others = {id(weight): weight for weight in model.weights.values()}
        for weight in read.values():
            others.pop(id(weight), None)
        nbytes = {name: float(weight.nbytes + weight.reordered_bytes) for name, weight in read.items()}
        nbytes[_OTHER] = float(sum(weight.nbytes for weight in others.values()))
        [head] = names_read(model.plan, Logits)
        for numbers in (seconds, nbytes):
            numbers[_HEAD] = numbers.pop(head)
        return cls(seconds, nbytes)

    @classmethod
    def usual(cls, loads: Sequence[Self]) -> Self:
        """The mean of those in the middle, which adds up to their steps."""
        middle = in_the_middle(loads, lambda load: load.total)
        return cls({name: mean(load.seconds[name] for load in middle) for name in loads[0].seconds}, loads[0].nbytes)

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.seconds.values())

    def price(self, name: str) -> Price:
        """Of a weight."""
        return Price(1e3 * self.seconds[name], self.nbytes[name])


def usual_step(model: Model, purpose: Purpose) -> StepProfile:
    """The one in the middle of the steps of `_LEAST_SECONDS`, of each of whose ops the median of some counts."""
    context = 0 if purpose == "prefill" else min(_CONTEXT, model.max_context - 1)
    tokens = min(TOKENS[purpose], model.max_context - context)
    step = partial(profile_step, model, sequences=SEQUENCES[purpose], tokens=tokens, context=context)
    least, most = _STEPS
    steps = min(max(int(_STEPS_SECONDS / step(repeats=least).seconds), least), most)
    profiles: list[StepProfile] = []
    end = time.perf_counter() + _LEAST_SECONDS
    while not profiles or time.perf_counter() < end:
        profiles.append(step(repeats=steps))
    return sorted(profiles, key=lambda profile: profile.seconds)[len(profiles) // 2]


def in_the_middle(several: Sequence[T], key: Callable[[T], float]) -> list[T]:
    """The half of several in the middle, the greater half where they cannot be halved so."""
    left_out = len(several) // 4
    return sorted(several, key=key)[left_out : len(several) - left_out]


def names_read(plan: Plan, kind: type[Op]) -> list[str]:
    """The names of the weights that ops of a kind multiply by."""
    names = list(plan.weights)
    return [names[i] for op in plan.ops if isinstance(op, kind) for i in op.ids("weight", "weights")]


def _example(candidate: Candidate, rows: int, columns: int, group_size: int) -> EncodedWeight:
    """A packed random weight [rows, columns], as `pack` would store it: int4 with a checkpoint's scales, which are
    float32 once it was trained."""
    some = min(rows, _ROWS)
    values = torch.randn(some, columns, generator=torch.Generator().manual_seed(0))
    if candidate.sparsity and candidate.fits(some, columns):
        values *= candidate.as_pattern().keep(values.square(), torch.ones_like(values, dtype=torch.bool))
    again = -(-rows // some)
    if candidate.scheme is None:
        return encode(bfloat16.from_float32(values.repeat(again, 1)[:rows].numpy()))
    grid = grid_of(candidate.scheme, columns, group_size, torch.float32)
    rounded = rtn(values, grid)
    codes, scales = (each.repeat(again, 1)[:rows].numpy() for each in (rounded.codes, rounded.scales))
    if candidate.scheme == "w8a8":
        return in_slots(codes, encode(codes, np.ascontiguousarray(scales[:, 0])))
    return in_slots(codes, encode_int4(codes, scales, grid.group or RUN_COLS * runs_of(columns)))
