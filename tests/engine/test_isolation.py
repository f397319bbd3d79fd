"""What goes wrong with one request ends that one; requests in the same batch do not notice."""

import threading

import numpy as np
import pytest

pytest.importorskip("torch")

from cutwork.engine.decoding.sampling import NotFinite
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from .tiny import byte_level_tokenizer, make, packed

LONG = {"max_new_tokens": 12, "ignore_eos": True}


class Odd(Exception):
    """What a caller's own code raises."""


def raising(at):
    """A logits processor that fails at the token of this number."""

    def processor(_, answer):
        if len(answer) == at:
            raise Odd("mine")

    return processor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("isolation")
    byte_level_tokenizer().save_pretrained(path)
    with Model(packed(make("llama", vocab_size=300), path), threads=1, max_batch=8, cache_bytes=1 << 22) as model:
        yield model


def run(session):
    while session.busy:
        session.step()


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"num_beams": 3}], ids=str)
def test_a_failing_processor_ends_its_own_request(model, at, options):
    alone = model.generate([5, 6, 7], **LONG).tokens
    session, free = model.session, model.session.scheduler.cache.free
    good = session.add([5, 6, 7], **LONG)
    bad = session.add([8, 9], logits_processor=raising(at), **options, **LONG)
    twin = session.add([5, 6, 7], **LONG)
    run(session)
    assert (bad.finish_reason, type(bad.error)) == ("error", Odd)
    assert [piece.finish_reason for piece in bad.pieces][-1] == "error"
    assert good.tokens == twin.tokens == alone and good.error is None
    assert session.scheduler.cache.free == free and not session.scheduler.running


def test_whoever_waits_gets_what_was_raised(model):
    with pytest.raises(Odd):
        model.generate([5, 6], logits_processor=raising(2), **LONG)
    with pytest.raises(Odd):
        list(model.generate([5, 6], stream=True, logits_processor=raising(2), **LONG))
    assert len(model.generate([5, 6], **LONG).tokens) == 12


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "top_p": 0.5}, {"temperature": 1.0, "min_p": 0.5}], ids=str
)
def test_logits_that_are_no_numbers_are_told(model, value, options):
    def spoil(scores, _):
        scores[7] = value

    with pytest.raises(NotFinite, match="not finite"):
        model.generate([5, 6], logits_processor=spoil, **options, **LONG)


def test_rules_that_forbid_everything_are_told(model):
    with pytest.raises(CutworkError, match="forbid all"):
        model.generate([5, 6], suppress_tokens=list(range(300)), temperature=1.0, top_p=0.5, **LONG)


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"min_p": 0.5}, {"top_k": 3}, {}], ids=str)
def test_next_to_no_temperature_is_greedy(model, options):
    greedy = model.generate([5, 6], **LONG).tokens
    for temperature in (1e-300, 1e-46, 1e-6):
        assert model.generate([5, 6], temperature=temperature, **options, **LONG).tokens == greedy


def test_a_text_that_cannot_be_written_ends_its_own_request(model):
    session = model.session
    good, bad = (session.add([5, 6, 7], **LONG) for _ in range(2))
    bad.detokenizer.push = lambda _: 1 / 0
    run(session)
    assert isinstance(bad.error, ZeroDivisionError) and len(good.tokens) == 12 and good.error is None


def test_a_salt_keeps_prompts_apart(model):
    prompt = list(range(3, 103))

    def reused(salt):
        return model.generate(prompt, cache_salt=salt, max_new_tokens=1).timings.reused_tokens

    assert reused("one") == 0 and reused("one") > 0 and reused("two") == 0 and reused("") == 0


@pytest.mark.parametrize("options", [{"logit_bias": {300: 1.0}}, {"stop_token_ids": [300]}, {"stop_token_ids": [-1]}])
def test_token_ids_beyond_the_vocabulary_are_told(model, options):
    with pytest.raises(CutworkError, match="must hold token ids, which are below 300"):
        model.generate([5, 6], min_new_tokens=1, **options, **LONG)


def test_blocks_that_log_probabilities_hold_are_waited_for_unless_it_is_for_ever(tmp_path):
    byte_level_tokenizer().save_pretrained(tmp_path)
    whole = {"threads": 1, "max_batch": 1, "max_context": 128}
    with Model(packed(make("llama", vocab_size=300), tmp_path), **whole) as model:
        long = [5 + i % 200 for i in range(90)]  # three blocks of four
        alone = model.generate([5, 6], **LONG).tokens
        reading = model.token_logprobs(long)
        next(reading)
        with pytest.raises(CutworkError, match="that this thread has not read to the end"):
            model.generate([7, *long[:60]], **LONG)
        assert model.generate([5, 6], **LONG).tokens == alone  # for which there is room
        answers = []
        asking = threading.Thread(target=lambda: answers.append(model.generate([7, *long[:60]], **LONG)))
        asking.start()
        asking.join(0.3)
        assert asking.is_alive() and not answers
        reading.close()
        asking.join(60)
        assert len(answers[0].tokens) == LONG["max_new_tokens"]
