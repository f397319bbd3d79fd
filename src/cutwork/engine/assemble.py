"""From a packed model to what runs it: plans bound to weights, executors, caches and the scheduler over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from cutwork.architectures import architecture_of, build_embedding_plan, build_encoder_plan, build_plan
from cutwork.architectures.architecture import Architecture
from cutwork.engine.adapters import read_adapter, with_adapters
from cutwork.engine.backend import Backend, Costs, Executor, Weight
from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.engine.encoder import Encoder
from cutwork.engine.load_options import LoadOptions
from cutwork.engine.purpose import Purpose, purpose_of
from cutwork.engine.sizes import sizes_of
from cutwork.engine.weights.arrange import Arrangement, Layout
from cutwork.engine.weights.bind import bind
from cutwork.engine.weights.cache_size import BLOCK_SIZE, CacheDType, usual_budget
from cutwork.engine.weights.huge_pages import in_huge_pages
from cutwork.errors import CutworkError
from cutwork.pack.reader import PackedModel
from cutwork.pack.record import EncodedWeight
from cutwork.plan.builder import Plan
from cutwork.plan.ops import Output

_REORDERED = 3  # bytes that reordering takes for each nonzero, at most 90% zeros


@dataclass(frozen=True)
class Runtime:
    """What a model takes steps with. `logits_chunk`: rows of logits that a step can give."""

    purpose: Purpose
    plan: Plan
    weights: dict[str, Weight]
    laid_out: dict[str, Layout]  # those of the weights that are not as they are stored
    left: bool  # weights where they were read, in ordinary pages, as there was no room for a copy in huge ones
    adapters: dict[str, int]  # bytes of each by its name, in the order of their numbers
    executor: Executor
    scheduler: Scheduler
    encoder: Encoder | None
    cache_dtype: CacheDType
    max_context: int
    logits_chunk: int

    @property
    def longest_text(self) -> int:
        """Tokens that a model that only reads looks at."""
        return min(self.max_context, self.purpose.longest or self.max_context)


def assemble(
    packed: PackedModel, backend: Backend, costs: Costs | None, options: LoadOptions, usual_context: int | None = None
) -> Runtime:
    """Bind, allocate and connect. `options` are all of them, with the number of threads. usual_context: tokens, where
    the options ask for none and memory suffices; by default the model's own.

    Raises what `Model.load` says.
    """
    architecture = architecture_of(packed.config)
    purpose = purpose_of(packed, architecture)
    plans = _plans(packed, purpose, options)
    adapters = {
        name: read_adapter(Path(path), architecture, plans[0], packed.config)
        for name, path in options["adapters"].items()
    }
    stored = _stored(packed.weights, costs, options)
    reorder = _reorders(packed.weights, options["reorder_weights"])
    arrays = bind(plans, architecture, stored.weights, backend.Weight, options["threads"], reorder, stored.anew)
    weights = {
        name: weight
        for plan, (matrices, _) in zip(plans, arrays, strict=True)
        for name, weight in zip(plan.weights, matrices, strict=True)
    }
    if adapters:
        plans[0], arrays[0] = with_adapters(plans[0], list(adapters.values()), *arrays[0], backend.Weight)
    dtype = _cache_dtype(options["cache_dtype"], weights)
    sizes = sizes_of(
        plans,
        architecture,
        packed.config,
        purpose,
        options,
        block_bytes=lambda plan: backend.cache_bytes(_cache_of(plan, 1, dtype)),
        usual_context=usual_context,
    )
    make = partial(_executor, backend, costs, options["threads"], dtype)
    encoder: Encoder | None = None
    memory: dict[str, Executor] = {}
    if len(plans) > 1:
        blocks, most = sizes.cache.memory_blocks, sizes.encoder_tokens
        encoder = Encoder(
            plans[1],
            make(plans[1], arrays[1], blocks, max_tokens=most, max_logits=1),
            BlockCache(blocks, BLOCK_SIZE),
            max_tokens=most,
            max_length=sizes.cache.input_tokens,
            vocabulary=plans[0].vocabulary,
            frames=architecture.frames,
            padding=architecture.padding(packed.config),
        )
        memory = {"memory": encoder.executor}
    blocks, most = sizes.cache.blocks, sizes.max_tokens
    executor = make(plans[0], arrays[0], blocks, max_tokens=most, max_logits=sizes.logits_chunk, **memory)
    scheduler = Scheduler(
        executor,
        BlockCache(blocks, BLOCK_SIZE),
        max_tokens=most,
        max_batch=options["max_batch"],
        max_context=sizes.cache.context,
        encoder=encoder,
    )
    return Runtime(
        purpose=purpose,
        plan=plans[0],
        weights=weights,
        laid_out=_laid_out(stored.anew, architecture, weights),
        left=stored.left,
        adapters={name: sum(factors.nbytes for factors in each.values()) for name, each in adapters.items()},
        executor=executor,
        scheduler=scheduler,
        encoder=encoder,
        cache_dtype=dtype,
        max_context=sizes.cache.context,
        logits_chunk=sizes.logits_chunk,
    )


def _plans(packed: PackedModel, purpose: Purpose, options: LoadOptions) -> list[Plan]:
    """The model's plan and, behind it, that of its encoder, if it has one beside."""
    if purpose.writes:
        plan = build_plan(packed.config)
    else:
        plan = build_embedding_plan(packed.config, scored=purpose.question is not None)
    if purpose.writes and isinstance(plan.ops[-1], Output):
        raise CutworkError(
            f"{packed.path} is an encoder, but no modules.json in it says how vectors are made of its hidden states"
        )
    encoder = build_encoder_plan(packed.config)
    if options["adapters"] and (encoder or not purpose.writes):
        raise CutworkError("adapters are for models that continue a text; leave out adapters, or merge them")
    return [plan, encoder] if encoder else [plan]


@dataclass(frozen=True)
class _Stored:
    """Weights where they are to be read from, which of them are to be laid out anew, and `left` as in `Runtime`."""

    weights: Mapping[str, EncodedWeight]
    anew: Arrangement | None
    left: bool


def _stored(weights: Mapping[str, EncodedWeight], costs: Costs | None, options: LoadOptions) -> _Stored:
    """In huge pages if that is asked for, but for those that are laid out anew, which get memory of their own."""
    threads, anew = options["threads"], None
    if costs:
        together = max(options["max_batch"], options["draft_tokens"] if options["draft"] else 0)
        budget = usual_budget()
        anew = Arrangement.of(weights, costs, threads, together=together, budget=budget, copies=options["huge_pages"])
    if not options["huge_pages"]:
        return _Stored(weights, anew, left=False)
    kept = {name: weight for name, weight in weights.items() if anew is None or name not in anew.layouts}
    moved = in_huge_pages(kept, threads)
    return _Stored({**weights, **moved}, anew, left=moved is kept)


def _reorders(weights: Mapping[str, EncodedWeight], asked: bool | None) -> bool:
    """Whether sparse int8 weights are to be reordered; if nobody says, where that takes little of the free memory."""
    if asked is not None:
        return asked
    nonzeros = sum(each.nonzeros for each in weights.values() if each.encoding == "bitmask" and each.dtype == "i8")
    return _REORDERED * nonzeros <= usual_budget()


def _laid_out(anew: Arrangement | None, architecture: Architecture, weights: Mapping[str, Weight]) -> dict[str, Layout]:
    """By the plan's names what became of the weights that were to be laid out anew."""
    names = map(architecture.plan_name, anew.layouts) if anew else ()
    made = {name: weights[name].encoding for name in names if name in weights}
    return {name: cast(Layout, encoding) for name, encoding in made.items() if encoding in get_args(Layout)}


def _cache_dtype(wanted: Literal["auto"] | CacheDType, weights: Mapping[str, Weight]) -> CacheDType:
    if wanted != "auto":
        return wanted
    return "f32" if all(weight.dtype == "f32" for weight in weights.values()) else "bf16"


def _cache_of(plan: Plan, blocks: int, dtype: CacheDType) -> dict[str, Any]:
    """A KV cache as executors are told of it."""
    return {
        "layers": plan.cache_layers,
        "kv_heads": plan.kv_heads,
        "head_dim": plan.head_dim,
        "block_size": BLOCK_SIZE,
        "blocks": blocks,
        "dtype": dtype,
    }


def _executor(
    backend: Backend,
    costs: Costs | None,
    threads: int,
    dtype: CacheDType,
    plan: Plan,
    arrays: tuple[Sequence[Weight], Sequence[np.ndarray]],
    blocks: int,
    **more: Any,
) -> Executor:
    """A plan bound to its weights and vectors, with a cache of so many blocks; CutworkError if memory is short."""
    cache = _cache_of(plan, blocks, dtype)
    try:
        return backend.Executor(
            plan.op_dicts(), plan.spans(), *arrays, threads=threads, cache=cache, costs=costs, **more
        )
    except MemoryError as error:
        raise CutworkError(f"{error}") from None
