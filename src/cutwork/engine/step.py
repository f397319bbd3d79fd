"""A step of an executor: its ragged arrays, made of parts of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutwork.engine.backend import Executor
from cutwork.engine.decoding.blocks import Table
from cutwork.errors import CutworkError


@dataclass(frozen=True)
class Part:
    """Consecutive entries of a sequence: token ids [n], or for an encoder of features float32 [n, D].

    start: the position of the first. sequence: its row in the block tables. logits: of how many at the end they are
    wanted.
    """

    entries: Sequence[int] | np.ndarray
    start: int = 0
    sequence: int = 0
    logits: int = 0


@dataclass(frozen=True)
class Attended:
    """What an encoder has read for the sequences of a step: its blocks int32 [S, M] and entries int32 [S]."""

    tables: np.ndarray
    lengths: np.ndarray


def run_step(
    executor: Executor,
    parts: Sequence[Part],
    block_tables: np.ndarray,
    *,
    profile: bool = False,
    attended: Attended | None = None,
    attention_of: np.ndarray | None = None,
    types: np.ndarray | None = None,
    adapters: np.ndarray | None = None,
) -> np.ndarray:
    """Run at least one part; returns the logits wanted, float32 [R, vocabulary], part by part.

    block_tables: int32 [S, B], as `table_rows` makes them. types: of all tokens, float32 [T, types], where a plan adds
    them. attention_of: int32 [P, 2], the (layer, head) whose cross attention is to be kept. adapters: int32 [S], the
    number of each sequence's adapter, -1 for none; None if no sequence has one.
    """
    counts = np.array([(len(part.entries), part.start, part.sequence, part.logits) for part in parts], np.int32)
    lengths, starts, sequences, logits = counts.T
    ends = np.cumsum(lengths, dtype=np.int32)
    places = np.arange(ends[-1], dtype=np.int32)
    features, tokens = types, np.zeros(len(places), np.int32)
    if isinstance(parts[0].entries, np.ndarray) and parts[0].entries.ndim == 2:
        features = np.concatenate([part.entries for part in parts])
    else:
        tokens = np.concatenate([part.entries for part in parts], dtype=np.int32, casting="same_kind")
    return np.asarray(
        executor.step(
            tokens,
            places + np.repeat(starts - (ends - lengths), lengths),
            np.repeat(sequences, lengths),
            block_tables,
            np.flatnonzero(places >= np.repeat(ends - logits, lengths)).astype(np.int32),
            profile=profile,
            memory_tables=attended.tables if attended else None,
            memory_lengths=attended.lengths if attended else None,
            features=features,
            attention_of=attention_of,
            adapters=adapters,
        )
    )


def check_padding(tokens: np.ndarray, padding: int | None) -> None:
    """Raise CutworkError where token ids int [n] hold the padding, which some models' positions do not count."""
    if padding is not None and padding in tokens:
        raise CutworkError(
            f"the text holds the padding token ({padding}), which this model gives no place; leave it out"
        )


def table_rows(tables: Sequence[Table]) -> np.ndarray:
    """Int32 [S, B]: a row of blocks for each of at least one table, -1 beyond its end."""
    rows = np.full((len(tables), max(len(table.blocks) for table in tables)), -1, np.int32)
    for row, table in zip(rows, tables, strict=True):
        row[: len(table.blocks)] = table.blocks
    return rows
