"""What everybody else asks about a model family."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from cutwork.architectures.lengths import LengthsOf, absolute
from cutwork.plan.builder import Plan

Emit = Callable[[Plan, Mapping[str, Any]], None]
# Continues a text; answers one with another; writes down a recording; makes a vector, or classes, of a text.
Kind = Literal["text", "translation", "speech", "embedding"]
Classified = Literal["text", "token"]  # what classes are given of
HEAD = "lm_head.weight"  # what plans call the output head
_CONTEXT = absolute("max_position_embeddings")  # what most families call it


@dataclass(frozen=True)
class Architecture:
    """A model family, by the `model_type` of its configs. Names of tensors are the plan's, patterns fnmatch's.

    models, source: which models those are and where they are described, for docs/architectures.md. decoder, encoder:
    emit the forward pass from a config; one of them at least. context, inputs: how long sequences, and the inputs of an
    encoder with a decoder, may be. embedding: the weight that a tied output head is; copies: what else it may be stored
    as where that is left out; `tied_if_missing` where configs do not tell whether the head is tied, but what is stored
    does. renames, endings: how names begin, and end, in checkpoints and in plans. unread: what checkpoints carry
    although the forward pass does not read it. transposed: floats of linears that checkpoints hold as [inputs,
    outputs]. precise: linears of blocks that are not rounded unless asked for by name. headless: what configs have to
    say instead for hidden states alone, where the plan does some of the head's work before it. start: the config's keys
    for the first token of an answer, in turn. frames: of a spectrogram, in each entry that an encoder reads; 0 if it
    reads tokens. padding: from a config the token that an encoder's positions do not count, None if they count all.
    told_by_names: from a config and the names of the stored tensors, what has to be noted in that config of these.
    """

    model_type: str
    models: str
    source: str
    decoder: Emit | None = None
    encoder: Emit | None = None
    kind: Kind = "text"
    context: LengthsOf = _CONTEXT
    inputs: LengthsOf | None = None
    embedding: str = "model.embed_tokens.weight"
    copies: tuple[str, ...] = ()
    tied_if_missing: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    endings: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    precise: tuple[str, ...] = ()
    headless: tuple[tuple[str, Any], ...] = ()
    start: tuple[str, ...] = ("decoder_start_token_id",)
    frames: int = 0
    padding: Callable[[Mapping[str, Any]], int | None] = lambda _: None
    told_by_names: Callable[[Mapping[str, Any], Iterable[str]], dict[str, Any]] | None = None

    def plan_name(self, stored: str) -> str:
        """The name that plans have for a tensor of a checkpoint."""
        for before, after in self.endings:
            if stored.endswith(before):
                stored = stored.removesuffix(before) + after
        for before, after in self.renames:
            if stored.startswith(before):
                return after + stored.removeprefix(before)
        return stored

    def leaves_out(self, name: str) -> bool:
        """Whether a tensor may be in a checkpoint although the plan does not name it."""
        return any(fnmatchcase(name, pattern) for pattern in self.unread)

    def is_transposed(self, stored: str) -> bool:
        """Whether a checkpoint holds the floats of this tensor as [inputs, outputs]."""
        name = self.plan_name(stored)
        return any(fnmatchcase(name, pattern) for pattern in self.transposed)
