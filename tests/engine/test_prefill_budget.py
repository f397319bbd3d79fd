"""The prompt tokens that a step takes in beside decoding sequences."""

from cutwork.engine.decoding.prefill_budget import FIRST, LEAST, Pace


def test_without_decoding_sequences_or_target_there_is_no_limit():
    assert Pace(0.1).budget(0, 500) == 500
    assert Pace(0.0).budget(3, 500) == 500


def test_steps_come_near_the_target():
    pace = Pace(0.1)
    assert pace.budget(4, 500) == FIRST
    pace.note(4, 0, 0.02)
    for _ in range(50):
        prompt = pace.budget(4, 500)
        pace.note(4, prompt, 0.02 + 0.001 * prompt)
    assert 0.095 < 0.02 + 0.001 * pace.budget(4, 500) <= 0.1


def test_it_follows_a_machine_that_becomes_slower_and_never_stops_prompts():
    pace = Pace(0.1)
    for cost in (0.0001, 0.02):
        for _ in range(80):
            pace.note(4, 0, 0.05)
            pace.note(4, pace.budget(4, 500), 0.05 + cost * pace.budget(4, 500))
    assert pace.budget(4, 500) == LEAST
    assert pace.budget(4, 7) == 7
