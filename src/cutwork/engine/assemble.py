"""From a packed model to what runs it: plans bound to weights, executors, caches and the scheduler over them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from cutwork.architectures import architecture_of, build_embedding_plan, build_encoder_plan, build_plan
from cutwork.architectures.lengths import Lengths
from cutwork.engine.adapters import read_adapter, with_adapters
from cutwork.engine.backend import Backend, Costs, Executor, Weight
from cutwork.engine.classification.head import Head, read_head
from cutwork.engine.classification.question import Question, read_question
from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.lookup import LookupDrafter
from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.engine.decoding.speculative import Drafter
from cutwork.engine.embedding.description import Description, describe, read_activation
from cutwork.engine.encoder import Encoder
from cutwork.engine.load_options import LoadOptions
from cutwork.engine.tokenizer import load_tokenizer, longest_text
from cutwork.engine.weights.arrange import Arrangement, Layout
from cutwork.engine.weights.bind import bind
from cutwork.engine.weights.cache_size import BLOCK_SIZE, SHARE, CacheDType, size_cache
from cutwork.engine.weights.huge_pages import in_huge_pages
from cutwork.errors import CutworkError
from cutwork.machine import available_memory
from cutwork.pack.reader import PackedModel, read_packed
from cutwork.pack.record import EncodedWeight
from cutwork.pack.rounding import Rounding
from cutwork.plan.builder import Plan
from cutwork.plan.ops import AddPositions, Output
from cutwork.store.directory import kind_of
from cutwork.store.resolve import resolve

MAX_TOKENS = 512  # per step: long enough for the kernels, short enough to not make decoding sequences wait
LOGITS_FLOATS = 1 << 24  # of one step's result when all rows' logits are wanted
_REORDERED = 3  # bytes that reordering takes for each nonzero, at most 90% zeros


@dataclass(frozen=True)
class Runtime:
    """What a model takes steps with. `longest_text`: tokens that one that only reads looks at. `logits_chunk`: rows of
    logits that a step can give.

    description, head: how the model makes vectors, and classes, of hidden states, which then are a step's result; both
    None if it writes text. question: what it is asked of a query and a document, if it is a language model that ranks.
    """

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
    longest_text: int
    logits_chunk: int
    description: Description | None
    head: Head | None
    question: Question | None

    @property
    def writes(self) -> bool:
        """Whether the model writes text."""
        return not (self.description or self.head)


def assemble(
    packed: PackedModel, backend: Backend, costs: Costs | None, options: LoadOptions, usual_context: int | None = None
) -> Runtime:
    """Bind, allocate and connect. `options` are all of them, with the number of threads. usual_context: tokens, where
    the options ask for none and memory suffices; by default the model's own.

    Raises what `Model.load` says.
    """
    architecture = architecture_of(packed.config)
    threads, max_batch = options["threads"], options["max_batch"]
    head, question = read_head(architecture, packed.config, packed.weights, read_activation(packed.path)), None
    if asked := read_question(packed.path, architecture, packed.weights):
        head, question = asked
    description = describe(packed.path, classifies=head is not None)
    if description is None and not (architecture.decoder or head):
        description = Description()
    writes = not (description or head)
    longest = (description.max_length if description else None) or (None if writes else longest_text(packed.path))
    scored = question is not None
    plan = build_plan(packed.config) if writes else build_embedding_plan(packed.config, scored=scored)
    if writes and isinstance(plan.ops[-1], Output):
        raise CutworkError(
            f"{packed.path} is an encoder, but no modules.json in it says how vectors are made of its hidden states"
        )
    encoder_plan = build_encoder_plan(packed.config)
    if options["adapters"] and (encoder_plan or not writes):
        raise CutworkError("adapters are for models that continue a text; leave out adapters, or merge them")
    read = {name: read_adapter(Path(path), architecture, plan) for name, path in options["adapters"].items()}
    plans = [plan, encoder_plan] if encoder_plan else [plan]
    anew = None
    if costs:
        together = max(max_batch, options["draft_tokens"]) if options["draft"] else max_batch
        budget = available_memory() // SHARE
        anew = Arrangement.of(
            packed.weights, costs, threads, together=together, budget=budget, copies=options["huge_pages"]
        )
    stored: Mapping[str, EncodedWeight] = packed.weights
    left = False
    if options["huge_pages"]:
        kept = {name: weight for name, weight in stored.items() if anew is None or name not in anew.layouts}
        moved = in_huge_pages(kept, threads)
        left, stored = moved is kept, {**stored, **moved}
    reorder = _reorders(packed.weights, options["reorder_weights"])
    arrays = bind(plans, architecture, stored, backend.Weight, threads, reorder, anew)
    weights = {
        name: weight
        for named, (matrices, _) in zip(plans, arrays, strict=True)
        for name, weight in zip(named.weights, matrices, strict=True)
    }
    if read:
        plan, arrays[0] = with_adapters(plan, list(read.values()), *arrays[0], backend.Weight)
        plans[0] = plan
    dtype = _cache_dtype(options["cache_dtype"], weights)
    inputs = architecture.inputs(packed.config) if architecture.inputs else None
    if inputs and encoder_plan:
        inputs = _within_positions(encoder_plan, inputs)
    lengths = architecture.context(packed.config)
    if usual_context:
        lengths = Lengths(min(usual_context, lengths.most), lengths.most)
    context = _context(plan, lengths, longest)
    together = max_batch
    if not writes:  # as many of the longest texts as fill a step
        together = -(-MAX_TOKENS // min(MAX_TOKENS, options["max_context"] or context.usual))

    def cache_of(plan: Plan, blocks: int) -> dict[str, Any]:
        return {
            "layers": plan.cache_layers,
            "kv_heads": plan.kv_heads,
            "head_dim": plan.head_dim,
            "block_size": BLOCK_SIZE,
            "blocks": blocks,
            "dtype": dtype,
        }

    size = size_cache(
        plan,
        block_bytes=lambda plan: backend.cache_bytes(cache_of(plan, 1)),
        context=context,
        max_context=options["max_context"],
        max_batch=together,
        budget=options["cache_bytes"],
        encoder=encoder_plan,
        inputs=inputs,
        max_input=options["max_input"],
    )
    max_tokens = max(max_batch, min(MAX_TOKENS, size.context))
    if not writes:
        max_tokens = MAX_TOKENS if plan.cache_layers else max(MAX_TOKENS, size.context)  # which sees a text at once
    # As many as are guessed for all sequences at once: how much is guessed may not depend on who else is there.
    least = max_batch * (1 + (options["draft_tokens"] if options["draft"] else 0))
    logits_chunk = min(max_tokens, max(least, LOGITS_FLOATS // plan.vocabulary)) if writes else max_tokens

    def executor(index: int, blocks: int, **more: Any) -> Executor:
        cache = cache_of(plans[index], blocks)
        ops, spans = plans[index].op_dicts(), plans[index].spans()
        try:
            return backend.Executor(ops, spans, *arrays[index], threads=threads, cache=cache, costs=costs, **more)
        except MemoryError as error:
            raise CutworkError(f"{error}") from None

    encoder: Encoder | None = None
    memory: dict[str, Executor] = {}
    if encoder_plan:
        most = max(MAX_TOKENS, size.input_tokens)
        encoder = Encoder(
            encoder_plan,
            executor(1, size.memory_blocks, max_tokens=most, max_logits=1),
            BlockCache(size.memory_blocks, BLOCK_SIZE),
            max_tokens=most,
            max_length=size.input_tokens,
            vocabulary=plan.vocabulary,
            frames=architecture.frames,
            padding=architecture.padding(packed.config),
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
    anew_names = map(architecture.plan_name, anew.layouts) if anew else ()
    made = {name: weights[name].encoding for name in anew_names if name in weights}
    laid_out = {name: cast(Layout, encoding) for name, encoding in made.items() if encoding in get_args(Layout)}
    return Runtime(
        plan,
        weights,
        laid_out,
        left,
        {name: sum(factors.nbytes for factors in adapter.values()) for name, adapter in read.items()},
        runner,
        scheduler,
        encoder,
        dtype,
        size.context,
        min(size.context, longest or size.context),
        logits_chunk,
        description,
        head,
        question,
    )


def _reorders(weights: Mapping[str, EncodedWeight], asked: bool | None) -> bool:
    """Whether sparse int8 weights are to be reordered; if nobody says, where that takes little of the free memory."""
    if asked is not None:
        return asked
    nonzeros = sum(each.nonzeros for each in weights.values() if each.encoding == "bitmask" and each.dtype == "i8")
    return _REORDERED * nonzeros <= available_memory() // SHARE


def add_draft(
    target: Runtime,
    packed: PackedModel,
    backend: Backend,
    costs: Costs | None,
    options: LoadOptions,
    vocabulary: dict[str, int] | None,
) -> None:
    """Let another model guess for the target, whose tokenizer knows the `vocabulary`; `options` as for `assemble`.

    Raises CutworkError if it cannot guess for it.
    """
    if build_encoder_plan(packed.config):
        raise CutworkError("models with an encoder cannot be guessed for; leave out draft")
    room = _room_for_guesses(target, options)
    tokenizer = load_tokenizer(packed.path, packed.config)
    if build_plan(packed.config).vocabulary != target.plan.vocabulary or (
        tokenizer and vocabulary and tokenizer.get_vocab() != vocabulary
    ):
        raise CutworkError(f"the draft model {packed.path} has another vocabulary than the model it should guess for")
    changes: LoadOptions = {
        "cache_dtype": "auto",
        "max_context": None,  # it guesses as far as its own cache reaches
        "max_input": None,
        "adapters": {},  # the model that it guesses for has the last word
        "adapter": None,
        "draft": None,
        "reorder_weights": False,  # it mostly guesses for one sequence, a token at a time
    }
    draft = assemble(packed, backend, costs, options | changes, target.max_context)
    if not draft.writes:
        raise CutworkError(f"{packed.path} writes no text, so it cannot guess; leave out draft")
    scheduler = draft.scheduler
    target.scheduler.max_guesses = room
    target.scheduler.drafter = Drafter(
        draft.executor,
        scheduler.cache,
        tokens=options["draft_tokens"],
        max_tokens=scheduler.max_tokens,
        max_context=draft.max_context,
    )


def add_lookup(target: Runtime, options: LoadOptions) -> None:
    """Let what was said before guess for the target. Raises CutworkError if it cannot."""
    target.scheduler.max_guesses = _room_for_guesses(target, options)
    target.scheduler.drafter = LookupDrafter(options["draft_tokens"])


def _room_for_guesses(target: Runtime, options: LoadOptions) -> int:
    """Guesses that fit into a step; CutworkError unless the model writes text that something can guess."""
    if target.encoder:
        raise CutworkError("models with an encoder cannot be guessed for; leave out draft")
    if not target.writes:
        raise CutworkError("a model that writes no text cannot be guessed for; leave out draft")
    return min(target.scheduler.max_tokens, target.logits_chunk) - options["max_batch"]


def read_model(path: str | Path, weights: Rounding = "auto", threads: int = 0) -> PackedModel:
    """A model directory of any kind, or a model of the Hub, packed in memory if it is not yet.

    Raises CutworkError for what cannot be read, and for `weights` to be rounded of a packed one.
    """
    directory = resolve(path, codes=True)
    if kind_of(directory) == "packed":
        if weights != "auto":
            raise CutworkError(f"{directory} is packed, so its weights stay as they are; leave out weights")
        return read_packed(directory)
    from cutwork.pack.in_memory import pack_in_memory

    return pack_in_memory(directory, weights, threads)


def _context(plan: Plan, lengths: Lengths, usual: int | None) -> Lengths:
    """How long sequences are and may be: what only reads is used with texts of the length that it describes."""
    lengths = _within_positions(plan, lengths)
    return Lengths(min(lengths.usual, usual), lengths.most) if usual else lengths


def _within_positions(plan: Plan, lengths: Lengths) -> Lengths:
    """The lengths that a plan has positions for, where it has a row for each, whatever the config says."""
    shapes = list(plan.weights.values())
    rows = min((shapes[op.weight][0] for op in plan.ops if isinstance(op, AddPositions)), default=lengths.most)
    return Lengths(min(lengths.usual, rows), min(lengths.most, rows))


def _cache_dtype(wanted: Literal["auto"] | CacheDType, weights: dict[str, Weight]) -> CacheDType:
    if wanted != "auto":
        return wanted
    return "f32" if all(weight.dtype == "f32" for weight in weights.values()) else "bf16"
