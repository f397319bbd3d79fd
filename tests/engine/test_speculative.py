"""A draft model changes how fast the target answers, never what."""

from dataclasses import asdict

import numpy as np
import pytest

from cutwork.engine.decoding.draft_length import DraftLength
from cutwork.engine.decoding.sampling import Sampler, Sampling
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from .test_model import BACKENDS, PROMPTS, VOCABULARY, load
from .tiny import byte_level_tokenizer, make, packed, torch

TOKENS = [1, 2, 3, 5, 8]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    path = tmp_path_factory.mktemp("target")
    hf = make("llama", vocab_size=VOCABULARY)
    byte_level_tokenizer().save_pretrained(path)
    return hf, path


@pytest.fixture(scope="module", params=["close", "far"])
def draft(request, target, tmp_path_factory):
    """A saved model that often agrees with the target, or hardly ever."""
    hf = make("llama", vocab_size=VOCABULARY, seed=0 if request.param == "close" else 9)
    if request.param == "close":
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                if "norm" not in name:
                    weight.add_(0.03 * weight.std() * torch.randn_like(weight))
    path = tmp_path_factory.mktemp(request.param)
    byte_level_tokenizer().save_pretrained(path)
    hf.save_pretrained(path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", TOKENS)
def test_greedy_answers_are_the_targets_own(count, backend, target, draft):
    hf, path = target
    options = {"max_new_tokens": 50}
    with load(hf, path, backend=backend) as model:
        stops = ["the", model.tokenizer.decode(model.generate(PROMPTS[3], **options).tokens[20:22])]
        alone = [model.generate(p, ignore_eos=i % 2 == 0, **options) for i, p in enumerate(PROMPTS)]
        stopped = [model.generate(p, stop=stops, **options) for p in PROMPTS]
        penalised = model.generate(PROMPTS[2], repetition_penalty=1.3, no_repeat_ngram_size=2, **options)
    with load(hf, path, backend=backend, draft=draft, draft_tokens=count) as model:
        requests = [model.session.add(p, ignore_eos=i % 2 == 0, **options) for i, p in enumerate(PROMPTS)]
        requests += [model.session.add(p, stop=stops, **options) for p in PROMPTS]
        requests += [model.session.add(PROMPTS[2], repetition_penalty=1.3, no_repeat_ngram_size=2, **options)]
        while model.session.busy:
            model.session.step()
        results = [request.result() for request in requests]
        guessing = model.session.scheduler.drafter.cache
        assert model._cache.free == model._cache.blocks and guessing.free == guessing.blocks
        again = model.generate(PROMPTS[5], ignore_eos=False, **options)  # finds only verified blocks in the caches
        pieces = list(model.generate(PROMPTS[3], stream=True, stop=stops, **options))
    for result, expected in zip(results, [*alone, *stopped, penalised], strict=True):
        assert (result.tokens, result.text, result.finish_reason) == (
            expected.tokens,
            expected.text,
            expected.finish_reason,
        )
    assert again.tokens == alone[5].tokens
    assert "".join(pieces) == stopped[3].text
    guessed, accepted = (sum(getattr(r, f"{what}_tokens") for r in results) for what in ("guessed", "accepted"))
    assert (accepted > 0.3 * guessed) == (draft.name[:5] == "close")
    assert asdict(results[0])["guessed_tokens"] > 0


def test_a_close_draft_saves_steps(target, tmp_path, monkeypatch):
    monkeypatch.setattr(DraftLength, "choose", lambda *_: 4)  # though it costs as much as the target itself
    hf, path = target
    hf.save_pretrained(tmp_path)
    with load(hf, path, draft=tmp_path, draft_tokens=4) as model:
        steps = []
        real = model.executor.step
        model.session.scheduler._executor = type(
            "Counted", (), {"step": lambda _, *a, **more: (steps.append(1), real(*a, **more))[1]}
        )()
        result = model.generate(PROMPTS[3], max_new_tokens=50, ignore_eos=True)
    assert (result.acceptance, len(steps)) == (1.0, 1 + 10)  # the prompt, then five at a time


@pytest.mark.parametrize("blocks", [13, 20])
def test_little_memory_delays_but_changes_nothing(blocks, target, draft):
    hf, path = target
    with load(hf, path) as model:
        expected = [model.generate(p, max_new_tokens=60, ignore_eos=True).tokens for p in PROMPTS]
        block = model.executor.cache_bytes // model._cache.blocks
    with load(hf, path, draft=draft, cache_bytes=blocks * block, max_context=96) as model:
        results = model.generate(PROMPTS, max_new_tokens=60, ignore_eos=True)
        searched = model.generate([PROMPTS[3], PROMPTS[4]], num_beams=2, max_new_tokens=8)
        assert model._cache.free == blocks
    assert [result.tokens for result in results] == [e[: 96 - len(p)] for e, p in zip(expected, PROMPTS, strict=True)]
    assert all(len(result.tokens) for result in searched)


@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 8, "repetition_penalty": 1.5}]
)
def test_judged_guesses_follow_the_targets_distribution(settings):
    """Frequencies of pairs of tokens, guessed by one model and judged by another, equal the target's own."""
    random = np.random.default_rng(0)
    near, far = (random.normal(0, 1.5, (12, 12)).astype(np.float32) for _ in range(2))
    draft = 0.6 * near + 0.4 * far
    sampler = Sampler(Sampling(**settings), 1)  # with a seed nothing would be judged
    sampler._random = np.random.default_rng(3)

    def spoken():
        tokens = [0]
        guesses = []
        for _ in range(2):
            past = [*tokens, *(g for g, _ in guesses)]
            guesses.append(sampler.guess(draft[past[-1]], past))
        for guess, distribution in guesses:
            tokens.append(sampler.judge(near[tokens[-1]], tokens, guess, distribution)[0])
            if tokens[-1] != guess:
                break
        while len(tokens) < 3:
            tokens.append(sampler.choose(near[tokens[-1]], tokens)[0])
        return tokens[1] * 12 + tokens[2]

    count = 20000
    found = np.bincount([spoken() for _ in range(count)], minlength=144) / count
    expected = np.zeros(144)
    first = sampler._distribution(near[0], [0])
    for token in range(12):
        expected[token * 12 : token * 12 + 12] = first[token] * sampler._distribution(near[token], [0, token])
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(found - expected) <= 5 * deviation + 1e-9).all()


def test_draws_repeat_with_a_seed_and_have_log_probabilities(target, draft):
    hf, path = target
    options = {"max_new_tokens": 30, "temperature": 0.8, "seed": 4, "logprobs": 2, "ignore_eos": True}
    with load(hf, path, draft=draft, draft_tokens=3) as model:
        first, second = model.generate(PROMPTS[3], **options), model.generate([PROMPTS[3], PROMPTS[1]], **options)[0]
        scores = [entry for part in model.token_logprobs(PROMPTS[3] + first.tokens) for entry in part]
    with load(hf, path) as model:
        alone = model.generate(PROMPTS[3], **options)
    assert first.tokens == second.tokens == alone.tokens and len(first.tokens) == 30 and first.guessed_tokens
    for entry, expected in zip(first.logprobs, scores[len(PROMPTS[3]) :], strict=True):
        assert entry.token == expected.token and abs(entry.logprob - expected.logprob) < 1e-3


def test_a_processor_that_counts_its_calls_is_called_once_for_every_token(target, draft):
    hf, path = target

    def answer(**options):
        calls = []

        def nth(logits, tokens):
            calls.append(len(tokens))
            logits[:] = 0
            logits[7 * len(calls) % VOCABULARY] = 1

        with load(hf, path, **options) as model:
            other = model.session.add(PROMPTS[1], max_new_tokens=20, ignore_eos=True)
            request = model.session.add(PROMPTS[3], max_new_tokens=9, ignore_eos=True, logits_processor=nth)
            while model.session.busy:
                model.session.step()
        return request.result().tokens, other.result().tokens

    assert answer(draft=draft) == answer()


def test_a_draft_shares_prefixes_with_the_same_salt_alone(target, draft):
    hf, path = target
    computed = []
    with load(hf, path, draft=draft) as model:
        drafter = model.session.scheduler.drafter
        step = drafter._executor.step

        class Counting:
            def step(self, tokens, *args, **options):
                computed.append(len(tokens))
                return step(tokens, *args, **options)

        drafter._executor = Counting()
        prompt = list(range(1, 80))
        for salt in ("a", "b", "a"):
            computed.append(salt)
            model.generate(prompt, max_new_tokens=4, cache_salt=salt, ignore_eos=True)
    firsts = [computed[computed.index("a", start) + 1] for start in (0, computed.index("b"))]
    assert computed[computed.index("b") + 1] == firsts[0] > 64 > firsts[1]


def test_a_draft_model_goes_with_its_model(target, draft):
    hf, path = target
    with load(hf, path, draft=draft) as model:
        scheduler = model.session.scheduler
        assert scheduler.drafter is not None
    assert scheduler.drafter is None


def test_a_draft_is_content_with_less_context(target, draft, monkeypatch):
    hf, path = target
    free = iter([1 << 20, *[250_000] * 100])
    monkeypatch.setattr("cutwork.engine.weights.cache_size.available_memory", lambda: next(free))
    with load(hf, path, draft=draft, cache_bytes=None) as model:
        assert model.session.scheduler.drafter._max_context < model.max_context
        assert len(model.generate(PROMPTS[3], max_new_tokens=20, ignore_eos=True).tokens) == 20


def test_a_draft_that_cannot_guess_is_refused(target, tmp_path):
    hf, path = target
    make("llama", vocab_size=VOCABULARY + 1).save_pretrained(tmp_path)
    with pytest.raises(CutworkError, match="another vocabulary"):
        Model(packed(hf, path), backend="reference", draft=tmp_path)
    with pytest.raises(CutworkError, match="draft_tokens must be from 1"):
        Model(packed(hf, path), backend="reference", draft=tmp_path, draft_tokens=0)
