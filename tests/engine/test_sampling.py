"""Sampling means what it means in transformers."""

import numpy as np
import pytest

from cutwork.engine.decoding.sampling import Sampler, Sampling, candidates, log_probability, penalise
from cutwork.errors import CutworkError

from .tiny import torch, transformers

LOGITS = np.random.default_rng(0).normal(0, 3, 2000).astype(np.float32)


def filtered(logits, settings):
    """Probabilities [V] after our filters."""
    ids, scores = candidates(logits, settings)
    result = np.zeros(len(logits))
    result[ids] = np.exp(scores - scores.max())
    return result / result.sum()


def warped(logits, settings):
    """Probabilities [V] after transformers' warpers, in the order generate applies them."""
    warpers = [transformers.TemperatureLogitsWarper(settings.temperature)]
    if settings.top_k:
        warpers.append(transformers.TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        warpers.append(transformers.MinPLogitsWarper(settings.min_p))
    scores = torch.from_numpy(logits)[None]
    for warper in warpers:
        scores = warper(None, scores)
    return scores.softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    "settings",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.3, top_k=40),
        Sampling(temperature=1.0, top_k=5000),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=0.8, top_p=0.9),
        Sampling(temperature=3.0, top_p=0.97),  # the mass reaches beyond the tokens sorted first
        Sampling(temperature=0.5, top_p=0.01),
        Sampling(temperature=1.0, min_p=0.05),
        Sampling(temperature=0.9, top_k=100, top_p=0.8, min_p=0.02),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_filtered_distribution_equals_transformers(settings, seed):
    logits = np.random.default_rng(seed).normal(0, 3, 2000).astype(np.float32)
    ours, theirs = filtered(logits, settings), warped(logits, settings)
    assert np.flatnonzero(ours).tolist() == np.flatnonzero(theirs).tolist()
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)


def choices(count=1, **settings):
    """Tokens chosen one after the other from the same logits."""
    return chain(Sampling(**settings), LOGITS, [], count)


def chain(settings, logits, prompt, count):
    sampler, tokens = Sampler(settings, len(prompt)), list(prompt)
    for _ in range(count):
        tokens.append(sampler.choose(logits, tokens)[0])
    return tokens[len(prompt) :]


def test_penalties_count_the_answer_only():
    order = np.argsort(-LOGITS)
    assert choices(4, presence_penalty=1e3) == order[:4].tolist()
    gap = float(LOGITS[order[0]] - LOGITS[order[1]])
    assert choices(2, frequency_penalty=gap / 1.5) == [order[0], order[0]]
    assert choices(3, frequency_penalty=gap / 1.5)[2] == order[1]
    assert chain(Sampling(presence_penalty=1e3), LOGITS, order[:3].tolist(), 1) == [order[0]]


def test_bias_and_constraint():
    class Even:
        def __init__(self):
            self.accepted = []

        def allowed(self):
            return np.arange(len(LOGITS)) % 2 == 0

        def accept(self, token):
            self.accepted.append(token)

    assert choices(logit_bias={3: 1e3, 5: -1e3}) == [3]
    before = LOGITS.copy()
    even = Even()
    tokens = choices(20, constraint=even, temperature=2.0, seed=1, top_p=0.9, logit_bias={3: 1e3})
    assert all(token % 2 == 0 for token in tokens) and even.accepted == tokens
    assert choices(constraint=Even()) == [np.where(np.arange(len(LOGITS)) % 2 == 0, LOGITS, -np.inf).argmax()]
    np.testing.assert_array_equal(LOGITS, before)


def test_an_answer_of_a_given_form_ends_with_it_however_short_it_is():
    class Ends:
        def __init__(self, *allowed):
            self._allowed = np.isin(np.arange(len(LOGITS)), allowed)

        def allowed(self):
            return self._allowed

        def accept(self, token):
            pass

    def chosen(*allowed):
        settings = Sampling(min_new_tokens=5, constraint=Ends(*allowed))
        return Sampler(settings, 0, stop_tokens=frozenset([7])).choose(LOGITS, [])[0]

    assert chosen(7) == 7  # nothing else may come
    assert chosen(7, 8) == 8


def test_ties_at_the_top_k_threshold_stay():
    logits = np.array([1.0, 3.0, 2.0, 2.0, 0.0], np.float32)
    assert candidates(logits, Sampling(temperature=1.0, top_k=2))[0].tolist() == [1, 2, 3]


def test_repetition_penalty_equals_transformers():
    seen = [5, 7, 7, 900]
    processor = transformers.RepetitionPenaltyLogitsProcessor(1.7)
    expected = processor(torch.tensor([seen]), torch.from_numpy(LOGITS.copy())[None])[0].numpy()
    np.testing.assert_allclose(penalise(LOGITS, np.array(seen), 1.7), expected, rtol=1e-6)


def test_penalty_covers_the_answer_too():
    logits = np.array([1.0, 1.2, 0.9, 0.0], np.float32)
    assert chain(Sampling(repetition_penalty=2.0), logits, [3], 3) == [1, 0, 2]


def test_draws_follow_the_distribution():
    settings = Sampling(temperature=1.0, top_k=6, seed=1)
    draws = np.bincount(chain(settings, LOGITS, [], 4000), minlength=len(LOGITS)) / 4000
    np.testing.assert_allclose(draws, filtered(LOGITS, settings), atol=0.03)


def test_a_seed_repeats_and_no_seed_does_not():
    def draw(seed):
        return choices(20, temperature=2.0, seed=seed)

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    assert draw(None) != draw(None)


def test_log_probabilities_equal_log_softmax():
    expected = torch.from_numpy(LOGITS).double().log_softmax(-1).numpy()
    entry = log_probability(LOGITS, 11, 4)
    assert entry.logprob == pytest.approx(expected[11], abs=1e-5)
    assert [token for token, _ in entry.top] == np.argsort(-LOGITS)[:4].tolist()
    assert [p for _, p in entry.top] == pytest.approx(expected[np.argsort(-LOGITS)[:4]].tolist(), abs=1e-5)
    assert log_probability(LOGITS, 11, 0).top == []


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 1.1},
        {"min_p": 2.0},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range(bad):
    with pytest.raises(CutworkError, match=next(iter(bad))):
        Sampling(**bad)
