"""The prompt tokens that a step takes in beside decoding sequences."""

from cutwork.engine.decoding.prefill_budget import FIRST, LEAST, PrefillBudget


def test_without_decoding_sequences_or_target_there_is_no_limit():
    assert PrefillBudget(0.1).tokens(0, 500) == 500
    assert PrefillBudget(0.0).tokens(3, 500) == 500


def test_steps_come_near_the_target():
    budget = PrefillBudget(0.1)
    assert budget.tokens(4, 500) == FIRST
    budget.note(4, 0, 0.02)
    for _ in range(50):
        prompt = budget.tokens(4, 500)
        budget.note(4, prompt, 0.02 + 0.001 * prompt)
    assert 0.095 < 0.02 + 0.001 * budget.tokens(4, 500) <= 0.1


def test_it_follows_a_machine_that_becomes_slower_and_never_stops_prompts():
    budget = PrefillBudget(0.1)
    for cost in (0.0001, 0.02):
        for _ in range(80):
            budget.note(4, 0, 0.05)
            budget.note(4, budget.tokens(4, 500), 0.05 + cost * budget.tokens(4, 500))
    assert budget.tokens(4, 500) == LEAST
    assert budget.tokens(4, 7) == 7
