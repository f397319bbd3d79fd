"""RoBERTa: BERT whose positions begin behind that of the padding (arXiv 1907.11692)."""

from collections.abc import Mapping
from typing import Any

from cutwork.architectures import bert
from cutwork.architectures.architecture import Architecture
from cutwork.architectures.config import integer
from cutwork.architectures.lengths import Lengths, absolute
from cutwork.plan.builder import Plan


def emit(p: Plan, config: Mapping[str, Any]) -> None:
    """The forward pass."""
    bert.emit(p, config, first_position(config))


def context(config: Mapping[str, Any]) -> Lengths:
    """The tokens that there are positions for."""
    length = absolute("max_position_embeddings")(config).most - first_position(config)
    return Lengths(length, length)


def padding(config: Mapping[str, Any]) -> int:
    """The token that is not counted, whose number is that of its row in the table of positions."""
    return integer(config, "pad_token_id", maximum=1 << 16, default=1, minimum=0)


def first_position(config: Mapping[str, Any]) -> int:
    """The row of the first token in the table of positions."""
    return padding(config) + 1


ARCHITECTURE = Architecture(
    "roberta",
    models="RoBERTa, DistilRoBERTa, all-distilroberta, Granite Embedding R1",
    source="arXiv 1907.11692",
    encoder=emit,
    kind="embedding",
    context=context,
    padding=padding,
    embedding="embeddings.word_embeddings.weight",
    renames=(("roberta.", ""),),
    unread=(*bert.UNREAD, "lm_head.*"),
)
