"""How many tokens are guessed, with steps that take as long as a formula says."""

import numpy as np
import pytest

from cutwork.engine.decoding.draft_length import DraftLength


def steps(length, sequences, seconds, acceptance, count, random):
    """Take steps; returns the lengths that were chosen."""
    chosen = []
    for _ in range(count):
        guesses = length.choose(sequences)
        chosen.append(guesses)
        for _ in range(sequences):
            right = random.random(guesses) < acceptance
            length.note(guesses, int(np.argmin(right)) if not right.all() else guesses)
        length.took(seconds(sequences, guesses) * random.uniform(0.9, 1.1))
    return chosen


def rate(seconds, sequences, guesses, acceptance):
    return sum(acceptance**k for k in range(guesses + 1)) / seconds(sequences, guesses)


def memory_bound(sequences, guesses):
    """Rows are nearly free up to sixteen, then each costs; so does a step of the draft."""
    rows = sequences * (1 + guesses)
    return 10 + max(0, rows - 16) + guesses * (2 + 0.1 * sequences)


@pytest.mark.parametrize("acceptance", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("sequences", [1, 4, 16, 64])
def test_what_pays_is_found_and_kept(sequences, acceptance):
    random, length = np.random.default_rng(0), DraftLength(8)
    assert length.lengths == [0, 1, 2, 4, 8]
    chosen = steps(length, sequences, memory_bound, acceptance, 1600, random)[400:]
    best = max(rate(memory_bound, sequences, k, acceptance) for k in length.lengths)
    said = sum(rate(memory_bound, sequences, k, acceptance) * memory_bound(sequences, k) for k in chosen)
    assert said / sum(memory_bound(sequences, k) for k in chosen) > 0.9 * best
    if (sequences, acceptance) == (1, 0.95):
        assert np.median(chosen) == 8
    if sequences == 64:
        assert np.median(chosen) == 0


def test_it_follows_what_changes():
    random, length = np.random.default_rng(1), DraftLength(4)
    assert np.median(steps(length, 4, memory_bound, 0.95, 300, random)) > 0
    assert np.median(steps(length, 4, memory_bound, 0.05, 600, random)[300:]) == 0
    assert length.choose(9) == 0  # what does not pay with fewer does not with more
    assert length.choose(1) == 4
    assert np.median(steps(length, 4, memory_bound, 0.95, 6000, random)[5000:]) > 0


def test_a_trial_while_nothing_is_guessed_is_timed_once_the_draft_has_caught_up():
    random, length = np.random.default_rng(2), DraftLength(1)

    def seconds(_, guesses):
        return 1.0 + 10.0 * guesses

    assert steps(length, 2, seconds, 0.9, 80, random)[-1] == 0
    chosen = steps(length, 2, lambda _, guesses: 1.0, 0.9, 2000, random)
    first = chosen.index(1)
    assert chosen[first : first + 3] == [1, 1, 0]
    assert chosen[-1] == 1


def test_steps_that_were_not_timed_tell_nothing():
    length = DraftLength(1)
    assert length.lengths == [0, 1]
    length.took(1.0)  # of a step without guesses
    assert [length.choose(1) for _ in range(50)] == [1] * 50
    length.took(1.0)
    assert length.choose(1) == 0  # a trial
