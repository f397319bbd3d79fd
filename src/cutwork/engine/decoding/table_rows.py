"""The rows of a step's block tables: running sequences hold one each."""

import numpy as np

from cutwork.engine.adapters import NO_ADAPTER
from cutwork.engine.decoding.running import Running
from cutwork.engine.step import Attended


class TableRows:
    """`count` rows. tables: int32 [count, width], each row the blocks of a sequence, -1 beyond its end; adapters: int32
    [count], their numbers; attended: the blocks of what an encoder has read, if `memory_width` says that there is one.
    """

    def __init__(self, count: int, width: int, memory_width: int | None) -> None:
        self.free = list(range(count))
        self.tables = np.full((count, width), -1, np.int32)
        self.adapters = np.full(count, NO_ADAPTER, np.int32)
        self.attended: Attended | None = None
        if memory_width is not None:
            self.attended = Attended(np.full((count, memory_width), -1, np.int32), np.zeros(count, np.int32))

    def write(self, sequence: Running) -> None:
        """Put the blocks that a sequence has now into its row."""
        blocks = sequence.table.blocks
        self.tables[sequence.row, : len(blocks)] = blocks
        self.tables[sequence.row, len(blocks) :] = -1
        self.adapters[sequence.row] = sequence.adapter
        if sequence.memory and self.attended:
            blocks = sequence.memory_table.blocks
            self.attended.tables[sequence.row, : len(blocks)] = blocks
            self.attended.lengths[sequence.row] = sequence.memory.length

    def give_back(self, sequence: Running) -> None:
        """Let others have a sequence's row, and those it keeps for its beams."""
        self.tables[sequence.row] = -1
        self.adapters[sequence.row] = NO_ADAPTER
        self.free += [sequence.row, *sequence.reserved]
        sequence.row, sequence.reserved = -1, []
