"""Each rule changes scores as transformers' logits processor of the same option does."""

import numpy as np
import pytest

from cutwork.engine.decoding.rules import Rules
from cutwork.engine.decoding.sampling import Sampler, Sampling
from cutwork.errors import CutworkError

from .tiny import make, torch, transformers

VOCABULARY = 12
STOP = frozenset({2, 9})


def ours(rules, scores, tokens, prompt=1, limit=40):
    result = scores.copy()
    rules.apply(result, tokens, prompt_tokens=prompt, limit=limit, stop_tokens=STOP)
    return result


PAIRS = {
    "suppress": (Rules(suppress_tokens=[3, 5]), lambda p: p.SuppressTokensLogitsProcessor([3, 5])),
    "begin": (Rules(begin_suppress_tokens=[4]), lambda p: p.SuppressTokensAtBeginLogitsProcessor([4], 1)),
    "ngram1": (Rules(no_repeat_ngram_size=1), lambda p: p.NoRepeatNGramLogitsProcessor(1)),
    "ngram2": (Rules(no_repeat_ngram_size=2), lambda p: p.NoRepeatNGramLogitsProcessor(2)),
    "ngram3": (Rules(no_repeat_ngram_size=3), lambda p: p.NoRepeatNGramLogitsProcessor(3)),
    "min": (Rules(min_new_tokens=3), lambda p: p.MinNewTokensLengthLogitsProcessor(1, 3, list(STOP))),
    "bos": (Rules(forced_bos_token_id=7), lambda p: p.ForcedBOSTokenLogitsProcessor(7)),
    "eos": (Rules(forced_eos_token_id=9), lambda p: p.ForcedEOSTokenLogitsProcessor(40, 9)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_rules_equal_the_processors(name):
    rules, processor = PAIRS[name][0], PAIRS[name][1](transformers.generation.logits_process)
    random = np.random.default_rng(0)
    changed = 0
    for length in [*range(1, 40)] * 3:
        tokens = random.integers(0, VOCABULARY, length).tolist()
        scores = random.normal(0, 2, VOCABULARY).astype(np.float32)
        expected = processor(torch.tensor([tokens]), torch.from_numpy(scores.copy())[None])[0].numpy()
        result = ours(rules, scores, tokens)
        np.testing.assert_array_equal(result, expected)
        changed += (result != scores).any()
    assert changed


def test_forced_tokens_by_place_and_after_a_forced_first_one():
    scores = np.zeros(VOCABULARY, np.float32)
    rules = Rules(forced_tokens={1: 5}, forced_bos_token_id=4, begin_suppress_tokens=[5, 6])
    chosen = [int(ours(rules, scores, [1, 8, *[0] * place], prompt=2).argmax()) for place in range(3)]
    assert chosen[:2] == [4, 5]  # which is forbidden too: what is forced is certain
    forced = Rules(forced_tokens={1: 5})
    assert [int(ours(forced, scores, [1, *[0] * place]).argmax()) for place in range(3)] == [0, 5, 0]


def test_all_together_equal_generate():
    """Order matters where several apply; bias and penalties go first."""
    options = {
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 5,
        "forced_eos_token_id": 9,
        "suppress_tokens": [3, 40],
        "begin_suppress_tokens": [11, 12],
        "repetition_penalty": 1.3,
    }
    model = make("llama")
    sampler_options = Sampling(**options)
    for seed in range(10):
        prompt = np.random.default_rng(seed).integers(0, 101, 4).tolist()
        with torch.no_grad():
            expected = model.generate(
                torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=[2, 9], **options
            )[0].tolist()
            sampler, tokens = Sampler(sampler_options, len(prompt), len(prompt) + 20, STOP), list(prompt)
            while len(tokens) < len(prompt) + 20 and (len(tokens) == len(prompt) or tokens[-1] not in STOP):
                logits = model(torch.tensor([tokens])).logits[0, -1].numpy()
                tokens.append(sampler.choose(logits, tokens)[0])
        assert tokens == expected


@pytest.mark.parametrize("wrong", [{"no_repeat_ngram_size": -1}, {"min_new_tokens": -2}, {"forced_tokens": {-1: 3}}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(CutworkError):
        Sampling(**wrong)
