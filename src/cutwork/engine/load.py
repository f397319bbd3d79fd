"""From a packed model to what runs it: plans bound to weights, executors, caches and the scheduler over them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from cutwork.architectures import architecture_of, build_encoder_plan, build_plan
from cutwork.engine.backend import Backend, BackendName, Costs, Executor, Weight
from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.engine.decoding.speculative import Drafter
from cutwork.engine.encoder import Encoder
from cutwork.engine.tokenizer import load_tokenizer
from cutwork.engine.weights.bind import bind
from cutwork.engine.weights.cache_size import BLOCK_SIZE, CacheDType, size_cache
from cutwork.engine.weights.huge_pages import in_huge_pages
from cutwork.errors import CutworkError
from cutwork.pack.reader import PackedModel, read_packed
from cutwork.plan.builder import Plan
from cutwork.store.directory import kind_of
from cutwork.store.resolve import resolve

MAX_TOKENS = 512  # per step: long enough for the kernels, short enough to not make decoding sequences wait
LOGITS_FLOATS = 1 << 24  # of one step's result when all rows' logits are wanted


class LoadOptions(TypedDict, total=False):
    """Keywords of `Model.load`."""

    threads: int
    cache_dtype: Literal["auto"] | CacheDType
    max_context: int | None
    max_input: int | None
    max_batch: int
    cache_bytes: int | None
    backend: BackendName
    draft: str | Path | None
    draft_tokens: int
    reorder_weights: bool
    huge_pages: bool


@dataclass(frozen=True)
class Runtime:
    """What a model takes steps with. `logits_chunk`: rows of logits that a step can give."""

    plan: Plan
    weights: dict[str, Weight]
    executor: Executor
    scheduler: Scheduler
    encoder: Encoder | None
    cache_dtype: CacheDType
    max_context: int
    logits_chunk: int


def assemble(
    packed: PackedModel,
    backend: Backend,
    *,
    threads: int,
    costs: Costs | None,
    cache_dtype: Literal["auto"] | CacheDType,
    max_context: int | None,
    max_input: int | None,
    max_batch: int,
    cache_bytes: int | None,
    reorder_weights: bool,
    huge_pages: bool,
) -> Runtime:
    """Bind, allocate and connect. Options as for `Model.load`, which says what is raised."""
    architecture = architecture_of(packed.config)
    plan, encoder_plan = build_plan(packed.config), build_encoder_plan(packed.config)
    plans = [plan, encoder_plan] if encoder_plan else [plan]
    stored = in_huge_pages(packed.weights, threads) if huge_pages else packed.weights
    arrays = bind(plans, architecture, stored, backend.Weight, threads, reorder_weights)
    weights = {
        name: weight
        for named, (matrices, _) in zip(plans, arrays, strict=True)
        for name, weight in zip(named.weights, matrices, strict=True)
    }
    dtype = _cache_dtype(cache_dtype, weights)
    size = size_cache(
        plan,
        dtype=dtype,
        context=architecture.context(packed.config),
        max_context=max_context,
        max_batch=max_batch,
        budget=cache_bytes,
        encoder=encoder_plan,
        inputs=architecture.inputs(packed.config) if architecture.inputs else None,
        max_input=max_input,
    )
    max_tokens = max(max_batch, min(MAX_TOKENS, size.context))
    logits_chunk = max(max_batch, min(max_tokens, LOGITS_FLOATS // plan.vocabulary))

    def executor(index: int, blocks: int, **more: Any) -> Executor:
        cache = {
            "layers": plans[index].cache_layers,
            "kv_heads": plans[index].kv_heads,
            "head_dim": plans[index].head_dim,
            "block_size": BLOCK_SIZE,
            "blocks": blocks,
            "dtype": dtype,
        }
        ops, spans = plans[index].op_dicts(), plans[index].spans()
        try:
            return backend.Executor(ops, spans, *arrays[index], threads=threads, cache=cache, costs=costs, **more)
        except MemoryError as error:
            raise CutworkError(f"{error}") from None

    encoder: Encoder | None = None
    memory: dict[str, Executor] = {}
    if encoder_plan:
        longest = max(MAX_TOKENS, size.input_tokens)
        encoder = Encoder(
            encoder_plan,
            executor(1, size.memory_blocks, max_tokens=longest, max_logits=1),
            BlockCache(size.memory_blocks, BLOCK_SIZE),
            max_tokens=longest,
            max_length=size.input_tokens,
            vocabulary=plan.vocabulary,
            frames=architecture.frames,
        )
        memory = {"memory": encoder.executor}
    runner = executor(0, size.blocks, max_tokens=max_tokens, max_logits=logits_chunk, **memory)
    scheduler = Scheduler(
        runner,
        BlockCache(size.blocks, BLOCK_SIZE),
        max_tokens=max_tokens,
        max_batch=max_batch,
        max_context=size.context,
        encoder=encoder,
    )
    return Runtime(plan, weights, runner, scheduler, encoder, dtype, size.context, logits_chunk)


def add_draft(
    target: Runtime,
    packed: PackedModel,
    backend: Backend,
    threads: int,
    costs: Costs | None,
    tokens: int,
    max_batch: int,
    cache_bytes: int | None,
    huge_pages: bool,
    vocabulary: dict[str, int] | None,
) -> None:
    """Let another model guess up to so many `tokens` for the target, whose tokenizer's vocabulary is `vocabulary`.

    Raises CutworkError if it cannot guess for it.
    """
    if not 1 <= tokens <= 32:
        raise CutworkError(f"draft_tokens must be from 1 to 32, not {tokens}")
    if target.encoder or build_encoder_plan(packed.config):
        raise CutworkError("models with an encoder cannot be guessed for; leave out draft")
    tokenizer = load_tokenizer(packed.path, packed.config)
    if build_plan(packed.config).vocabulary != target.plan.vocabulary or (
        tokenizer and vocabulary and tokenizer.get_vocab() != vocabulary
    ):
        raise CutworkError(f"the draft model {packed.path} has another vocabulary than the model it should guess for")
    draft = assemble(
        packed,
        backend,
        threads=threads,
        costs=costs,
        cache_dtype="auto",
        max_context=min(target.max_context, architecture_of(packed.config).context(packed.config).most),
        max_input=None,
        max_batch=max_batch,
        cache_bytes=cache_bytes,
        reorder_weights=False,  # it mostly guesses for one sequence, a token at a time
        huge_pages=huge_pages,
    )
    scheduler, most = draft.scheduler, min(target.scheduler.max_tokens, target.logits_chunk) - max_batch
    target.scheduler.max_guesses = most
    target.scheduler.drafter = Drafter(
        draft.executor,
        scheduler.cache,
        tokens=tokens,
        max_tokens=scheduler.max_tokens,
        max_context=draft.max_context,
    )


def read_model(path: str | Path) -> PackedModel:
    """A model directory of any kind, or a model of the Hub, packed in memory if it is not yet."""
    directory = resolve(path)
    if kind_of(directory) == "packed":
        return read_packed(directory)
    from cutwork.pack.in_memory import pack_in_memory

    return pack_in_memory(directory)


def _cache_dtype(wanted: Literal["auto"] | CacheDType, weights: dict[str, Weight]) -> CacheDType:
    if wanted not in ("auto", *get_args(CacheDType)):
        raise CutworkError(f"cache_dtype must be auto, f32, bf16 or i8, not {wanted!r}")
    if wanted != "auto":
        return wanted
    return "f32" if all(weight.dtype == "f32" for weight in weights.values()) else "bf16"
