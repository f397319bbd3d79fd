"""How long a model's sequences may be, how much one step takes, and the KV cache that this needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutwork.architectures.architecture import Architecture
from cutwork.architectures.lengths import Lengths
from cutwork.engine.load_options import LoadOptions
from cutwork.engine.purpose import Purpose
from cutwork.engine.weights.cache_size import CacheSize, size_cache
from cutwork.plan.builder import Plan
from cutwork.plan.ops import AddPositions

MAX_TOKENS = 512  # per step: long enough for the kernels, short enough to not make decoding sequences wait
LOGITS_FLOATS = 1 << 24  # of one step's result when all rows' logits are wanted


@dataclass(frozen=True)
class Sizes:
    """The cache; tokens of a step at most, of the model and of its encoder; rows of logits that a step can give."""

    cache: CacheSize
    max_tokens: int
    encoder_tokens: int
    logits_chunk: int


def sizes_of(
    plans: Sequence[Plan],
    architecture: Architecture,
    config: Mapping[str, Any],
    purpose: Purpose,
    options: LoadOptions,
    *,
    block_bytes: Callable[[Plan], int],
    usual_context: int | None,
) -> Sizes:
    """Of a model with these plans, its encoder's the second. block_bytes, usual_context: as for `size_cache` and
    `assemble`. Raises CutworkError for a length that was asked for and is not to be had."""
    plan, encoder = plans[0], plans[1] if len(plans) > 1 else None
    max_batch = options["max_batch"]
    inputs = architecture.inputs(config) if architecture.inputs else None
    if inputs and encoder:
        inputs = _within_positions(encoder, inputs)
    context = _context(plan, architecture.context(config), usual_context, purpose)
    together = max_batch
    if not purpose.writes:  # as many of the longest texts as fill a step
        together = -(-MAX_TOKENS // min(MAX_TOKENS, options["max_context"] or context.usual))
    cache = size_cache(
        plan,
        block_bytes=block_bytes,
        context=context,
        max_context=options["max_context"],
        max_batch=together,
        budget=options["cache_bytes"],
        encoder=encoder,
        inputs=inputs,
        max_input=options["max_input"],
    )
    encoder_tokens = max(MAX_TOKENS, cache.input_tokens)
    if not purpose.writes:
        max_tokens = MAX_TOKENS if plan.cache_layers else max(MAX_TOKENS, cache.context)  # which sees a text at once
        return Sizes(cache, max_tokens, encoder_tokens, max_tokens)
    max_tokens = max(max_batch, min(MAX_TOKENS, cache.context))
    # As many as are guessed for all sequences at once: how much is guessed may not depend on who else is there.
    least = max_batch * (1 + (options["draft_tokens"] if options["draft"] else 0))
    logits_chunk = min(max_tokens, max(least, LOGITS_FLOATS // plan.vocabulary))
    return Sizes(cache, max_tokens, encoder_tokens, logits_chunk)


def _context(plan: Plan, lengths: Lengths, usual: int | None, purpose: Purpose) -> Lengths:
    """How long sequences are and may be: what only reads is used with texts of the length that it describes."""
    if usual:
        lengths = Lengths(min(usual, lengths.most), lengths.most)
    lengths = _within_positions(plan, lengths)
    return Lengths(min(lengths.usual, purpose.longest), lengths.most) if purpose.longest else lengths


def _within_positions(plan: Plan, lengths: Lengths) -> Lengths:
    """The lengths that a plan has positions for, where it has a row for each, whatever the config says."""
    shapes = list(plan.weights.values())
    rows = min((shapes[op.weight][0] for op in plan.ops if isinstance(op, AddPositions)), default=lengths.most)
    return Lengths(min(lengths.usual, rows), min(lengths.most, rows))
