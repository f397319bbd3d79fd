"""Scheduling: order, mixing, memory and cancellation, seen through an executor that only records."""

import numpy as np
import pytest

from cutwork.engine.decoding.beam import Beams
from cutwork.engine.decoding.blocks import BlockCache
from cutwork.engine.decoding.sampling import Sampling
from cutwork.engine.decoding.scheduler import Scheduler
from cutwork.errors import CutworkError


class Recorder:
    """Checks that every step's rows fit together; predicts (last token + 1) % 50."""

    def __init__(self):
        self.steps = []
        self.written = {}

    def step(self, tokens, positions, sequences, block_tables, logits_rows, **_):
        self.steps.append((tokens.copy(), sequences.copy()))
        for token, position, sequence in zip(tokens, positions, sequences, strict=True):
            block = block_tables[sequence, position // 4]
            assert block >= 0
            self.written[int(block), int(position % 4)] = int(token)
        starts = np.flatnonzero(np.diff(sequences, prepend=-1))
        assert len(np.unique(sequences)) == len(starts)  # one run of rows per sequence
        logits = np.zeros((len(logits_rows), 50), np.float32)
        logits[np.arange(len(logits_rows)), (tokens[logits_rows] + 1) % 50] = 1
        return logits

    def copy_blocks(self, pairs):
        for source, target in pairs:
            self.written |= {(target, i): t for (block, i), t in self.written.items() if block == source}


def scheduler(blocks=64, max_tokens=8, max_batch=3, max_context=40):
    return Scheduler(
        Recorder(), BlockCache(blocks, 4), max_tokens=max_tokens, max_batch=max_batch, max_context=max_context
    )


def add(s, prompt, count, stop=frozenset()):
    return s.add(prompt, max_new_tokens=count, sampling=Sampling(), stop_tokens=stop)


def run(s):
    while s.busy:
        s.step()


def expected(first, count):
    return [(first + 1 + i) % 50 for i in range(count)]


def test_long_prompts_are_chunked_and_decoding_goes_on():
    s = scheduler()
    short = add(s, [7], 30)
    s.step()
    long = add(s, list(range(20)), 5)
    s.step()
    tokens, sequences = s._executor.steps[-1]
    assert len(tokens) == 8  # the step is full
    assert tokens[0] == short.tokens[1] and (sequences[1:] == long.row).all()
    assert len(short.tokens) == 3  # it got its token while the prompt came in
    run(s)
    assert short.tokens[1:] == expected(7, 30)
    assert long.tokens[20:] == expected(19, 5)


def test_waiting_ones_start_in_order_when_a_row_is_free():
    s = scheduler(max_batch=2)
    sequences = [add(s, [i + 1], 4 + i) for i in range(5)]
    s.step()
    assert len(s.running) == 2 and len(s.waiting) == 3
    run(s)
    finished = [sequence.finished for sequence in sequences]
    assert finished == sorted(finished)
    assert [sequence.finish_reason for sequence in sequences] == ["length"] * 5


def test_stop_tokens_end_a_sequence():
    s = scheduler()
    sequence = add(s, [3], 30, frozenset([9]))
    run(s)
    assert (sequence.tokens[-1], sequence.finish_reason) == (9, "stop")


@pytest.mark.parametrize("blocks", [10, 11, 14, 20])
def test_short_memory_delays_but_changes_nothing(blocks):
    s = scheduler(blocks=blocks, max_batch=5)
    sequences = [add(s, [i + 1] * (5 + i), 25) for i in range(6)]
    while s.busy:
        s.step()
        used = {block for sequence in s.running for block in sequence.table.blocks}
        assert s.cache.free == blocks - len(used)
    assert [q.tokens[q.prompt_tokens :] for q in sequences] == [expected(i + 1, 25) for i in range(6)]
    assert s.cache.free == blocks
    assert sorted(s._rows.free) == list(range(5))
    assert (s._rows.tables == -1).all()


def test_cancelling_frees_everything_wherever_it_is():
    s = scheduler(max_batch=1)
    running, waiting = add(s, [1] * 20, 10), add(s, [2], 3)
    s.step()
    s.finish(running)
    s.finish(waiting)
    s.finish(waiting)
    assert not s.busy and s.cache.free == 64
    assert (running.finish_reason, waiting.finish_reason) == ("cancelled", "cancelled")
    assert s.step() == []


def test_shared_prefix_is_not_computed_again():
    s = scheduler(max_tokens=32)
    first = add(s, list(range(10)), 1)
    run(s)
    second = add(s, [*range(10), 30], 1)
    s.step()
    assert (first.reused_tokens, second.reused_tokens) == (0, 8)
    assert s._executor.steps[-1][0].tolist() == [8, 9, 30]


def test_equal_prompts_are_computed_once():
    s = scheduler(max_tokens=32)
    first, twin, other = add(s, list(range(10)), 2), add(s, list(range(10)), 2), add(s, [40], 2)
    s.step()
    assert s.running == [first, other, twin]  # the twin took over all ten tokens
    run(s)
    assert sum(len(tokens) for tokens, _ in s._executor.steps) == 10 + 2 + 1 + 1
    assert (first.reused_tokens, twin.reused_tokens, other.reused_tokens) == (0, 10, 0)
    assert first.tokens == twin.tokens == [*range(10), *expected(9, 2)]
    assert s.cache.free == 64


def test_a_prompt_that_begins_alike_waits_for_the_blocks_being_computed_and_shares_them():
    s = scheduler(max_tokens=32)
    first, second = add(s, list(range(10)), 2), add(s, list(range(9)), 2)
    s.step()
    assert s.running == [first]
    run(s)
    assert (first.reused_tokens, second.reused_tokens) == (0, 8)
    assert second.tokens == [*range(9), *expected(8, 2)]


def test_prompts_that_cannot_run_are_refused():
    s = scheduler(blocks=5)  # 20 tokens, less than the context
    with pytest.raises(CutworkError, match="20 with the answer"):
        add(s, [1] * 20, 1)
    sequence = add(s, [1] * 19, 30)
    run(s)
    assert (len(sequence.tokens), sequence.finish_reason) == (20, "length")


def test_lower_priorities_are_served_first():
    s = scheduler(max_batch=1)
    running, late, soon = add(s, [1], 3), add(s, [2], 3), add(s, [3], 3)
    urgent = s.add([4], max_new_tokens=3, sampling=Sampling(), priority=-1)
    run(s)
    ends = [sequence.finished for sequence in (urgent, running, late, soon)]
    assert ends == sorted(ends)


def test_an_urgent_request_does_not_wait_for_a_long_prompt():
    s = scheduler(max_tokens=8, max_context=200, blocks=64)
    slow = s.add([1] * 150, max_new_tokens=2, sampling=Sampling(), priority=1)
    s.step()
    same = s.add([2] * 150, max_new_tokens=2, sampling=Sampling(), priority=1)
    urgent = s.add([0], max_new_tokens=2, sampling=Sampling())
    s.step()
    assert len(urgent.tokens) == 2 and same.row < 0
    run(s)
    assert [len(each.tokens) for each in (slow, same, urgent)] == [152, 152, 2 + 1]


def test_a_short_prompt_does_not_wait_for_a_long_one():
    s = scheduler(max_tokens=8, max_batch=4, max_context=200, blocks=200)
    long, longer = (s.add([place] * 150, max_new_tokens=2, sampling=Sampling()) for place in (1, 2))
    s.step()
    short = s.add([3] * 3, max_new_tokens=2, sampling=Sampling())
    s.step()
    assert len(short.tokens) == 4 and longer.row < 0  # in one step, past what waited before it
    assert long.table.length == 8 + 5  # which still had the rest of it
    run(s)
    assert long.finished < longer.finished


def test_a_long_prompt_comes_to_its_end_beside_any_number_of_short_ones():
    s = scheduler(max_tokens=8, max_context=200, blocks=200)
    long, steps = s.add([1] * 150, max_new_tokens=2, sampling=Sampling()), 0
    while long.first_token is None:
        while len(s.waiting) < 3:
            s.add([2 + steps % 40] * 7, max_new_tokens=1, sampling=Sampling(), client=f"{steps}, {len(s.waiting)}")
        s.step()
        steps += 1
    assert steps <= 150 / 4 + 2  # half of each step


def test_who_waits_to_share_a_prefix_holds_nobody_back():
    s = scheduler(max_tokens=32)
    first, sharing, other = add(s, list(range(10)), 2), add(s, list(range(9)), 2), add(s, [40, 41], 2)
    s.step()
    assert s.running == [first, other]
    run(s)
    assert sharing.reused_tokens == 8 and sharing.tokens == [*range(9), *expected(8, 2)]


def test_a_busy_client_does_not_keep_others_out():
    s = scheduler(max_batch=2)
    greedy = [s.add([i], max_new_tokens=8, sampling=Sampling(), client="a") for i in range(6)]
    other = s.add([20], max_new_tokens=8, sampling=Sampling(), client="b")
    run(s)
    assert other.finished < greedy[1].finished
    assert [g.finished for g in greedy] == sorted(g.finished for g in greedy)


def test_memory_is_taken_from_the_lowest_priority():
    s = scheduler(blocks=8, max_batch=2)  # 32 tokens
    polite = s.add([1] * 12, max_new_tokens=16, sampling=Sampling(), priority=5)
    s.step()
    urgent = s.add([2] * 12, max_new_tokens=16, sampling=Sampling())
    run(s)
    assert s.preemptions and urgent.finished < polite.finished
    assert polite.tokens[12:] == expected(1, 16) and urgent.tokens[12:] == expected(2, 16)


def test_searches_that_gave_way_begin_again_one_after_the_other():
    """Either fits alone; had each some of its beams, both would wait for the blocks of the other."""
    s = scheduler(blocks=9, max_tokens=32, max_batch=4)

    def given_way(prompt, tokens):
        search = s.add(prompt, max_new_tokens=12, sampling=Sampling(), beams=Beams(num_beams=2), client=str(prompt[0]))
        while len(search.tokens) < tokens:
            s.step()
        s._preempt(search)
        beams = [*s.waiting]
        beams[1].tokens[8:] = [30] * (tokens - 8)  # no block after the prompt is shared
        s.waiting.clear()
        return beams

    first, second = given_way([1] * 8, 19), given_way([2] * 8, 11)
    every = s.cache.open([], (0, "", 0))
    s.cache.extend(every, 36)  # nothing that was computed is left
    s.cache.close(every)
    s.waiting.extend([*first, *second])
    for _ in range(60):
        s.step()
    assert not s.busy and first[0].finish_reason == second[0].finish_reason == "length"


def test_what_a_sequence_computed_itself_is_not_reused():
    s = scheduler(max_tokens=32)
    sequence = add(s, list(range(10)), 5)
    s.step()
    s._preempt(sequence)
    run(s)
    assert sequence.reused_tokens == 0 and sequence.tokens[10:] == expected(9, 5)


def test_guesses_of_a_step_that_failed_are_forgotten():
    s = scheduler()
    sequence = add(s, [7], 5)
    s.step()
    sequence.guesses = [None, None]
    run(s)
    assert sequence.tokens == [7, *expected(7, 5)]
