"""The block allocator: nothing leaks, nothing shared is overwritten, equal prefixes are found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutwork.engine.decoding.blocks import BlockCache, OutOfBlocks


def filled(cache, tokens):
    table = cache.open(tokens)
    cache.extend(table, len(tokens))
    cache.commit(table, tokens, len(tokens))
    return table


def test_out_of_blocks_changes_nothing():
    cache = BlockCache(4, 2)
    table = filled(cache, [1, 2, 3])
    before = (list(table.blocks), cache.free)
    with pytest.raises(OutOfBlocks):
        cache.extend(table, 9)
    assert (table.blocks, cache.free) == before
    assert cache.extend(table, 8) == []
    assert cache.free == 0


def test_equal_prefixes_share_blocks():
    cache = BlockCache(10, 2)
    first = filled(cache, [1, 2, 3, 4, 5])
    second = cache.open([1, 2, 3, 4, 9])
    assert (second.blocks, second.length) == (first.blocks[:2], 4)
    assert cache.open([1, 2, 9, 4]).blocks == first.blocks[:1]
    assert cache.open([1, 2]).blocks == []  # the last token must be computed, or there are no logits
    assert cache.open([3, 4, 5]).blocks == []


def test_a_finished_prefix_is_found_until_its_memory_is_wanted():
    cache = BlockCache(4, 2)
    cache.close(filled(cache, [1, 2, 3, 4, 5]))
    assert cache.free == 4
    again = cache.open([1, 2, 3, 4, 5])
    assert again.length == 4
    cache.close(again)
    cache.close(filled(cache, [9, 9, 8, 8, 7, 7, 6]))
    assert cache.open([1, 2, 3]).length == 0
    assert cache.free == 4


def test_the_same_tokens_after_another_prefix_are_not_confused():
    cache = BlockCache(8, 2)
    cache.close(filled(cache, [1, 1, 5, 5, 0]))
    assert cache.open([2, 2, 5, 5, 0]).length == 0
    assert cache.open([5, 5, 0]).length == 0


def test_fork_copies_the_shared_block_on_write():
    cache = BlockCache(8, 4)
    first = filled(cache, [1, 2, 3, 4, 5, 6])
    second = cache.fork(first)
    assert second.blocks == first.blocks
    copies = cache.extend(second, 7)
    assert copies == [(first.blocks[1], second.blocks[1])]
    assert second.blocks[0] == first.blocks[0] and second.blocks[1] != first.blocks[1]
    assert cache.extend(first, 7) == []  # now alone
    cache.close(first)
    cache.close(second)
    assert cache.free == 8


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_blocks_are_conserved_and_owned(data):
    cache, tables = BlockCache(6, 2), []
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["open", "grow", "fork", "close"]))
        try:
            if action == "open":
                tokens = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=7))
                table = cache.open(tokens)
                tables.append((table, tokens))
                cache.extend(table, len(tokens))
                cache.commit(table, tokens, len(tokens))
            elif tables:
                table, tokens = data.draw(st.sampled_from(tables))
                if action == "grow":
                    cache.extend(table, len(tokens) + 1)
                    tokens.append(data.draw(st.integers(0, 1)))
                    cache.commit(table, tokens, len(tokens))
                elif action == "fork":
                    tables.append((cache.fork(table), list(tokens)))
                else:
                    tables = [entry for entry in tables if entry[0] is not table]
                    cache.close(table)
        except OutOfBlocks:
            pass
        used = {block for table, _ in tables for block in table.blocks}
        assert cache.free == 6 - len(used)
        for table, tokens in tables:
            for other, others in tables:
                for i, (a, b) in enumerate(zip(table.blocks, other.blocks, strict=False)):
                    if a == b:  # shared blocks hold the same past
                        end = min(2 * (i + 1), table.length, other.length)
                        assert tokens[:end] == others[:end]
    for table, _ in tables:
        cache.close(table)
    assert cache.free == 6
