"""Log-probabilities of prompts, between the steps of what is generated."""

from types import SimpleNamespace

import pytest

from cutwork.serve.jobs import scoring
from cutwork.serve.jobs.scoring import PromptScorer


class Slow:
    """A model that scores a token in 0.1 ms, a hundred of them at a time, on a clock of its own."""

    def __init__(self):
        self.now, self.chunks = 0.0, []
        self.session = SimpleNamespace(scheduler=SimpleNamespace(prefill_budget=SimpleNamespace(target=0.01)))

    def token_logprobs(self, prompt, alternatives, *, adapter, most):
        start = 0
        while start < len(prompt):
            count = min(most(100), len(prompt) - start)
            start, self.now = start + count, self.now + 1e-4 * count
            self.chunks.append(count)
            yield [None] * count


@pytest.fixture
def model(monkeypatch):
    model = Slow()
    monkeypatch.setattr(scoring, "time", SimpleNamespace(perf_counter=lambda: model.now))
    return model


def test_beside_answers_a_chunk_keeps_the_pace(model):
    scorer = PromptScorer(model)
    scorer.add("owner", 0, list(range(1000)), 1)
    for _ in range(3):
        scorer.step()
    assert model.chunks == [100] * 3  # nobody waits
    scorer.step(beside=2, taken=0.004)
    scorer.step(beside=2, taken=0.004)
    assert model.chunks[3:] == [60] * 2  # 6 of 10 ms


def test_clients_take_turns(model):
    scorer = PromptScorer(model)
    for index, client in enumerate("aaabbc"):
        scorer.add(client, index, [1] * 5, 1, client=client)
    order = []
    while scorer:
        owner, _ = scorer.first
        if scorer.step() is not None:
            order.append(owner)
    assert order == list("abcaba")
