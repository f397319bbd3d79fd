"""What guesses for a loaded model, which then checks several tokens in one step: another model, or what was said."""

from cutwork.architectures import build_encoder_plan, build_plan
from cutwork.engine.assemble import Runtime, assemble
from cutwork.engine.backend import Backend, Costs
from cutwork.engine.decoding.lookup import LookupDrafter
from cutwork.engine.decoding.speculative import Drafter
from cutwork.engine.load_options import LoadOptions
from cutwork.engine.tokenizer import load_tokenizer
from cutwork.errors import CutworkError
from cutwork.pack.reader import PackedModel


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
    if not draft.purpose.writes:
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
    if not target.purpose.writes:
        raise CutworkError("a model that writes no text cannot be guessed for; leave out draft")
    return min(target.scheduler.max_tokens, target.logits_chunk) - options["max_batch"]
