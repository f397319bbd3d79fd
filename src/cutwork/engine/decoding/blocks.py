"""Whose blocks of the paged KV cache are whose: tables, reference counts, copy-on-write, reuse of equal prefixes.

Only bookkeeping: the blocks themselves live in the executor.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

Copy = tuple[int, int]  # (from block, to block), for Executor.copy_blocks
Root = tuple[int, str, int]  # what a sequence's keys and values depend on besides tokens: (memory, salt, adapter)
Key = tuple[int | Root, tuple[int, ...]]  # a block's content: (prefix, tokens)
NO_ROOT: Root = (0, "", -1)


class OutOfBlocks(Exception):
    """A condition the scheduler handles, not an error: no block is free; nothing was changed."""


@dataclass(eq=False)
class Table:
    """The blocks of one sequence, in order; its first `length` tokens are in the cache."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    registered: int = 0  # leading blocks known to `BlockCache` by content
    prefix: int | Root = NO_ROOT  # serial number of that content; of the empty prefix the root


class BlockCache:
    """An allocator of `blocks` blocks of `block_size` tokens.

    A full block is remembered by its content: the tokens in it and the prefix before it. When no sequence uses it any
    more it stays, idle, until its memory is wanted, and a sequence that starts with the same tokens takes it over. The
    key is the content itself, not a hash of it, so that two prompts can never be confused.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self._free = list(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused but remembered, least recently used first
        self._users = [0] * blocks
        self._serial = 0
        self._known: dict[Key, tuple[int, int]] = {}  # → (serial, block)
        self._keys: dict[int, Key] = {}  # block → its key in _known

    @property
    def free(self) -> int:
        """Blocks that can be had now."""
        return len(self._free) + len(self._idle)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.block_size)

    def open(self, tokens: Sequence[int], root: Root = NO_ROOT) -> Table:
        """A table for a sequence that begins with `tokens`, holding the longest prefix still in the cache.

        At least the last token is left to compute, since its logits are wanted. Only sequences with the same root share
        blocks.
        """
        table = Table(prefix=root)
        for start in range(0, len(tokens) - self.block_size, self.block_size):
            known = self._known.get((table.prefix, tuple(tokens[start : start + self.block_size])))
            if known is None:
                break
            table.prefix, block = known
            self._retain(block)
            table.blocks.append(block)
        table.registered = len(table.blocks)
        table.length = table.registered * self.block_size
        return table

    def extend(self, table: Table, length: int) -> list[Copy]:
        """Make room to write tokens [table.length, length); returns the blocks to copy first.

        A block that another table shares is replaced by a copy. Raises OutOfBlocks, changing nothing, if room lacks.
        """
        first = table.length // self.block_size
        if length <= len(table.blocks) * self.block_size and all(self._users[b] == 1 for b in table.blocks[first:]):
            return []
        shared = [i for i in range(first, len(table.blocks)) if self._users[table.blocks[i]] > 1]
        missing = max(0, self.blocks_for(length) - len(table.blocks))
        if missing + len(shared) > self.free:
            raise OutOfBlocks
        copies = []
        for index in shared:
            source, target = table.blocks[index], self._allocate()
            self._release(source)
            table.blocks[index] = target
            copies.append((source, target))
        table.blocks += [self._allocate() for _ in range(missing)]
        return copies

    def commit(self, table: Table, tokens: Sequence[int], length: int) -> None:
        """Note that the sequence's first `length` tokens have been computed, and remember the blocks they fill."""
        table.length = length
        for index in range(table.registered, length // self.block_size):
            start = index * self.block_size
            key = (table.prefix, tuple(tokens[start : start + self.block_size]))
            if key not in self._known:  # else an equal block computed meanwhile by another sequence is remembered
                self._serial += 1
                self._known[key] = (self._serial, table.blocks[index])
                self._keys[table.blocks[index]] = key
            table.prefix = self._known[key][0]
            table.registered = index + 1

    def fork(self, table: Table) -> Table:
        """A second sequence with the same past; whoever writes first to a shared block gets a copy."""
        for block in table.blocks:
            self._retain(block)
        return Table(list(table.blocks), table.length, table.registered, table.prefix)

    def is_shared(self, table: Table) -> bool:
        """Whether others have blocks of it, too."""
        return any(self._users[block] > 1 for block in table.blocks)

    def reorder(self, tables: Sequence[Table], parents: Sequence[int]) -> list[Table]:
        """Tables of which number i has the past of tables[parents[i]]; those that nothing continues are closed."""
        result = [tables[p] if p not in parents[:i] else self.fork(tables[p]) for i, p in enumerate(parents)]
        for number, table in enumerate(tables):
            if number not in parents:
                self.close(table)
        return result

    def close(self, table: Table) -> None:
        """Give a sequence's blocks back, the last first, so that long prefixes lose their tails before their heads."""
        for block in reversed(table.blocks):
            self._release(block)
        table.blocks, table.length, table.registered, table.prefix = [], 0, 0, NO_ROOT

    def _allocate(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._known[self._keys.pop(block)]
        self._users[block] = 1
        return block

    def _retain(self, block: int) -> None:
        self._idle.pop(block, None)
        self._users[block] += 1

    def _release(self, block: int) -> None:
        self._users[block] -= 1
        if self._users[block]:
            return
        if block in self._keys:
            self._idle[block] = None
        else:
            self._free.append(block)
