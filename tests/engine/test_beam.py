"""Beam search finds what transformers finds, whatever runs beside it; diverse groups what a plain oracle finds."""

import json

import numpy as np
import pytest

from cutwork.engine.decoding.beam import Beams, BeamSearch
from cutwork.engine.decoding.logits import log_softmax
from cutwork.engine.decoding.sampling import Sampler, Sampling
from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from tests.architectures import test_t5 as t5

from .tiny import make, packed, torch

STOP = [2, 9, 50]
OPTIONS = [
    {"num_beams": 2},
    {"num_beams": 5, "num_return_sequences": 5},
    {"num_beams": 4, "early_stopping": True, "num_return_sequences": 3},
    {"num_beams": 4, "early_stopping": "never", "num_return_sequences": 4, "length_penalty": 0.0},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0, "num_return_sequences": 2},
    {"num_beams": 5, "length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": 0.3, "min_new_tokens": 6},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "repetition_penalty": 1.4, "num_return_sequences": 2},
    {"num_beams": 3, "forced_eos_token_id": 9, "suppress_tokens": [7, 8], "begin_suppress_tokens": [2]},
]


@pytest.fixture(scope="module", params=["llama", "gpt-neox"])
def pair(request, tmp_path_factory):
    hf = make(request.param)
    with torch.no_grad():
        hf.get_output_embeddings().weight[STOP] *= 1.5  # so that many hypotheses end
    model = Model(
        packed(hf, tmp_path_factory.mktemp("beam")), backend="reference", threads=1, cache_bytes=1 << 23, max_batch=12
    )
    model.stop_tokens = model.session._stop_tokens = frozenset(STOP)
    with model:
        yield hf, model


def prompts(seed, count):
    random = np.random.default_rng(seed)
    return [random.integers(10, 50, random.integers(1, 45)).tolist() for _ in range(count)]


def blocks(model, count):
    """Bytes of so many blocks of the KV cache."""
    return count * model.executor.cache_bytes // model._cache.blocks


def theirs(hf, prompt, start=None, stop=STOP, **options):
    """(tokens, score) of the hypotheses that transformers returns; `start`: where answers begin, after the prompt."""
    with torch.no_grad():
        out = hf.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            eos_token_id=stop,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    found = []
    for row, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True):
        answer = row[len(prompt) if start is None else start :]
        ends = [i for i, token in enumerate(answer) if token in stop]
        found.append((answer[: ends[0] + 1] if ends else answer, score))
    return found


def hypotheses(generation):
    return [(g.tokens, g.score) for g in [generation, *generation.alternatives]]


def same(ours, expected):
    assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([score for _, score in ours], [score for _, score in expected], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_hypotheses_and_scores_equal_transformers(pair, options):
    hf, model = pair
    texts = prompts(len(str(options)), 6)
    endings = set()
    for prompt, result in zip(texts, model.generate(texts, max_new_tokens=14, **options), strict=True):
        same(hypotheses(result), theirs(hf, prompt, max_new_tokens=14, **options))
        endings |= {result.finish_reason, *(other.finish_reason for other in result.alternatives)}
        assert result.text == ""  # no tokenizer
    assert "stop" in endings or options.get("length_penalty", 1) > 1  # which favours the longest
    assert model._cache.free == model._cache.blocks


def test_beside_ordinary_requests_and_with_little_memory(pair):
    """Preempted as a whole, recomputed, and still the same."""
    hf, model = pair
    alone = {len(p): model.generate(p, max_new_tokens=40, ignore_eos=True).tokens for p in prompts(1, 3)}
    with Model(
        packed(hf, model.path), backend="reference", threads=1, cache_bytes=blocks(model, 9), max_batch=7
    ) as small:
        small.stop_tokens = small.session._stop_tokens = frozenset(STOP)
        searches = [
            small.session.add(p, max_new_tokens=40, num_beams=3, num_return_sequences=3, ignore_eos=True)
            for p in prompts(2, 3)
        ]
        plain = [small.session.add(p, max_new_tokens=40, ignore_eos=True) for p in prompts(1, 3)]
        searches[1:1] = [small.session.add(prompts(2, 1)[0], max_new_tokens=40, num_beams=3)]
        small.session.cancel(searches.pop(1))
        while small.session.busy:
            small.session.step()
        assert small.session.scheduler.preemptions > 0
        assert small._cache.free == small._cache.blocks
    assert [r.tokens for r in plain] == [alone[r.sequence.prompt_tokens] for r in plain]
    for prompt, request in zip(prompts(2, 3), searches, strict=True):
        with torch.no_grad():
            out = hf.generate(torch.tensor([prompt]), do_sample=False, num_beams=3, max_new_tokens=40)
        assert request.result().tokens == out[0, len(prompt) :].tolist()


def test_no_cache_is_copied_but_the_block_being_written(pair, monkeypatch):
    _, model = pair
    copied = []
    real = model.executor.copy_blocks
    monkeypatch.setattr(model.executor, "copy_blocks", lambda pairs: (copied.extend(pairs), real(pairs)))
    model.generate(prompts(3, 1)[0] * 3, max_new_tokens=12, num_beams=4, ignore_eos=True)
    assert 0 < len(copied) <= 12 * 3  # beams that continue the same one, less the one that keeps its block


def oracle(log_probabilities, prompt, beams, groups, penalty, length_penalty, limit, stop):
    """Diverse beam search in plain words: lists of (score, tokens), groups one after the other."""
    width = beams // groups
    open_, done = [[(0.0, [])] for _ in range(groups)], [[] for _ in range(groups)]
    closed = [False] * groups
    for length in range(1, limit + 1):
        used = []
        for g in range(groups):
            if closed[g]:
                continue
            candidates = []
            for score, answer in open_[g]:
                row = log_probabilities(prompt + answer).copy()
                for token in used:
                    row[token] -= penalty
                candidates += [(score + float(row[token]), [*answer, token]) for token in range(len(row))]
            candidates.sort(key=lambda c: -c[0])
            candidates = candidates[: width * (1 + max(1, len(stop)))]
            ends = [c for c in candidates[:width] if c[1][-1] in stop or length == limit]
            done[g] += [(score / length**length_penalty, answer) for score, answer in ends]
            done[g] = sorted(done[g], key=lambda c: -c[0])[:width]
            open_[g] = [c for c in candidates if c[1][-1] not in stop][:width]
            used += [answer[-1] for _, answer in open_[g]]
            full = len(done[g]) == width
            closed[g] = full and open_[g][0][0] / length**length_penalty <= done[g][-1][0]
    return sorted((h for group in done for h in group), key=lambda c: -c[0])


@pytest.mark.parametrize(("beams", "groups", "penalty"), [(4, 2, 0.7), (6, 3, 1.5), (3, 3, 5.0), (4, 1, 9.0)])
def test_diverse_groups_equal_an_oracle(pair, beams, groups, penalty):
    _, model = pair
    for prompt in prompts(beams, 3):
        result = model.generate(
            prompt,
            max_new_tokens=8,
            num_beams=beams,
            num_beam_groups=groups,
            diversity_penalty=penalty,
            num_return_sequences=beams,
            length_penalty=0.5,
        )
        expected = oracle(
            lambda tokens: log_softmax(model.logits(tokens)[-1]), prompt, beams, groups, penalty, 0.5, 8, STOP
        )
        same(hypotheses(result), [(answer, score) for score, answer in expected])


def test_more_groups_differ_more():
    """With a large penalty, no two groups begin alike."""
    logits = np.random.default_rng(0).normal(0, 1, 30).astype(np.float32)
    search = BeamSearch(
        Beams(num_beams=4, num_beam_groups=4, diversity_penalty=50.0), Sampler(Sampling()), [1], 9, frozenset()
    )
    search.advance([logits] * 4)
    assert len({tokens[-1] for tokens in search.tokens}) == 4


@pytest.mark.parametrize("beams", [1, 3])
def test_rules_that_leave_nothing_are_an_error(pair, beams):
    with pytest.raises(CutworkError, match="no token may come next"):
        pair[1].generate([5, 6], num_beams=beams, max_new_tokens=3, suppress_tokens=list(range(101)))


def test_a_search_that_rules_leave_nothing_more_ends_with_what_it_found():
    logits = np.arange(4, dtype=np.float32)
    forbid = Sampling(logits_processor=lambda scores, answer: scores.fill(-np.inf) if answer else None)
    search = BeamSearch(Beams(num_beams=2, length_penalty=0.0), Sampler(forbid, 1), [1], 9, frozenset([3]))
    search.advance([logits] * 2)
    search.advance([logits] * 2)
    assert search.done and [found.tokens for found in search.best()] == [[3]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0},
        {"num_beams": 3, "num_return_sequences": 4},
        {"num_beams": 4, "num_beam_groups": 3},
        {"num_beams": 2, "early_stopping": "soon"},
        {"num_beams": 2, "length_penalty": 1e9},
        {"num_beams": 2, "stop": "x"},
        {"num_beams": 2, "logprobs": 0},
        {"num_beams": 13},
        {"num_return_sequences": 2},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(pair, wrong):
    with pytest.raises(CutworkError):
        pair[1].generate([1, 2, 3], **wrong)


@pytest.mark.parametrize("options", [{}, {"num_return_sequences": 2}, {"num_beam_groups": 2}])
def test_sampling_with_beams_is_refused(pair, options):
    with pytest.raises(CutworkError, match="beam search does not sample; leave out temperature, or num_beams"):
        pair[1].generate([1, 2, 3], num_beams=2, temperature=0.7, **options)


def test_beams_that_cannot_fit_together_are_refused(pair):
    hf, model = pair
    with (
        Model(packed(hf, model.path), backend="reference", threads=1, cache_bytes=blocks(model, 9)) as small,
        pytest.raises(CutworkError, match="do not fit"),
    ):
        small.generate([1] * 100, max_new_tokens=150, num_beams=12)


@pytest.mark.parametrize("options", [{"num_return_sequences": 5}, {"length_penalty": 0.6, "no_repeat_ngram_size": 2}])
@pytest.mark.parametrize("kind", ["v1.0", "v1.1"])
def test_five_beams_of_an_encoder_decoder_equal_transformers(kind, options, tmp_path):
    hf = t5.make(kind)
    hf.save_pretrained(tmp_path)
    stop = list(range(3, t5.VOCABULARY, 9))  # so many that some answers end
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stop, "decoder_start_token_id": 0}))
    random = np.random.default_rng(len(options))
    sources = [[*random.integers(10, 50, random.integers(1, 30)).tolist(), 2] for _ in range(13)]
    ended = 0
    with Model.load(tmp_path, backend="reference", threads=1, max_batch=10, cache_bytes=1 << 23) as model:
        results = model.generate(sources, num_beams=5, max_new_tokens=10, **options)
    for source, result in zip(sources, results, strict=True):
        same(hypotheses(result), theirs(hf, source, num_beams=5, max_new_tokens=10, start=1, stop=stop, **options))
        ended += result.finish_reason == "stop"
    assert ended
