"""Guessing from what was said before changes how fast a model answers, never what."""

import numpy as np
import pytest

from cutwork.engine.decoding.draft_length import DraftLength
from cutwork.engine.decoding.lookup import LookupDrafter
from cutwork.engine.decoding.speculative import Wanted
from cutwork.errors import CutworkError

from .test_model import BACKENDS, PROMPTS, VOCABULARY, load
from .tiny import byte_level_tokenizer, make

ABC = [5, 6, 7, 8, 9]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = tmp_path_factory.mktemp("target")
    byte_level_tokenizer().save_pretrained(path)
    return make("llama", vocab_size=VOCABULARY), path


def guessed(drafter, tokens, limit=99):
    return [guess.token for guess in drafter.guess([Wanted("a", tokens, None, limit)]).get("a", [])]


def test_what_stood_before_is_guessed(monkeypatch):
    monkeypatch.setattr(DraftLength, "choose", lambda *_: 4)
    drafter = LookupDrafter(4)
    assert guessed(drafter, [1, 2]) == guessed(drafter, [1, 2, 3, 4]) == []
    drafter.forget("a")
    assert guessed(drafter, [*ABC, 1, 5, 6, 7]) == [8, 9, 1, 5]
    assert guessed(drafter, [*ABC, 1, 5, 6, 7, 8]) == [9, 1, 5, 6], "the place moves on"
    assert guessed(drafter, [*ABC, 1, 5, 6, 7, 8, 2, 6, 7, 8], 2) == [2, 6], "the latest place counts, within the limit"
    drafter.forget("a")
    assert guessed(drafter, [1, 2, 3, 1, 2, 3]) == [1, 2, 3, 1], "a repetition goes on"
    drafter.learn("a", 4, 0)
    assert len(guessed(drafter, [1, 2, 3, 1, 2, 3])) == 3


def test_nothing_is_guessed_where_that_does_not_pay(monkeypatch):
    monkeypatch.setattr(DraftLength, "choose", lambda *_: 0)
    assert guessed(LookupDrafter(4), [1, 2, 3, 1, 2, 3]) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.02, "seed": 4, "logprobs": 1}, {"repetition_penalty": 1.3}])
def test_answers_are_the_targets_own(target, backend, settings, monkeypatch):
    prompts = [[*prompt, *prompt, *prompt[:3]] for prompt in PROMPTS if len(prompt) < 60]
    options = {"max_new_tokens": 60, "ignore_eos": True, **settings}
    with load(*target, backend=backend) as model:
        alone = [model.generate(prompt, **options) for prompt in prompts]
    monkeypatch.setattr(DraftLength, "choose", lambda *_: 5)  # whether it pays or not
    with load(*target, backend=backend, draft="ngram", draft_tokens=5) as model:
        together = model.generate(prompts, **options)
        assert model._cache.free == model._cache.blocks
    for result, expected in zip(together, alone, strict=True):
        assert (result.tokens, result.text) == (expected.tokens, expected.text)
        if expected.logprobs:
            theirs = [entry.logprob for entry in expected.logprobs]
            np.testing.assert_allclose([entry.logprob for entry in result.logprobs], theirs, rtol=1e-4)
    assert "repetition_penalty" in settings or sum(result.guessed_tokens for result in together) > 0


def test_repetition_saves_steps(target, monkeypatch):
    monkeypatch.setattr(DraftLength, "choose", lambda *_: 4)
    wanted = [20, 21, 22, 23, 24] * 8
    with load(*target, draft="ngram") as model:
        steps, step = [], model.session.scheduler.step
        model.session.scheduler.step = lambda: (steps.append(1), step())[1]
        result = model.generate([1, 2], max_new_tokens=40, ignore_eos=True, forced_tokens=dict(enumerate(wanted)))
    assert result.tokens == wanted and len(steps) < 20 and result.acceptance > 0.9


def test_all_sequences_may_be_guessed_for_however_large_the_vocabulary(target, monkeypatch):
    monkeypatch.setattr("cutwork.engine.sizes.LOGITS_FLOATS", 4 * VOCABULARY)
    with load(*target, draft="ngram", draft_tokens=5, max_batch=4) as model:
        assert model.session.scheduler.max_guesses >= 4 * 5


def test_encoders_are_refused(tmp_path):
    from ..architectures.test_t5 import make as make_t5
    from ..text_to_text import load as load_t5
    from ..text_to_text import save as save_t5

    with pytest.raises(CutworkError, match="cannot be guessed for"):
        load_t5(save_t5(make_t5("v1.1"), tmp_path), draft="ngram")
