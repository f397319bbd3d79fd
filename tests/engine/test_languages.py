"""Models that translate between many languages answer as transformers does when it is told both of them."""

import pytest
from tokenizers.processors import TemplateProcessing

from cutwork.engine.languages import language_token
from cutwork.engine.translation import answers_in
from cutwork.errors import CutworkError
from tests.engine.bart_tiny import make
from tests.engine.tiny import byte_level_tokenizer, torch
from tests.text_to_text import load

TEXTS = ["a short one", "one that is a good deal longer than the first"]


def tokenizer():
    made = byte_level_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["eng_Latn", "deu_Latn", "__fr__"]})
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made, directory = make("m2m-100"), tmp_path_factory.mktemp("languages")
    made.generation_config.update(eos_token_id=2)
    made.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    with load(directory) as loaded:
        yield made, loaded


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("source", "target"), [("eng_Latn", "deu_Latn"), ("deu_Latn", "fr")])
def test_a_text_begins_with_its_language_and_the_answer_with_the_other(model, num_beams, source, target) -> None:
    reference, engine = model
    first, forced = (language_token(engine.tokenizer, name) for name in (source, target))
    results = engine.translate(TEXTS, source=source, target=target, num_beams=num_beams, max_new_tokens=12)
    for text, result in zip(TEXTS, results, strict=True):
        ids = [first, *engine.tokenizer.encode(text, add_special_tokens=False), engine.tokenizer.eos_token_id]
        expected = reference.generate(
            torch.tensor([ids]),
            num_beams=num_beams,
            max_new_tokens=12,
            do_sample=False,
            forced_bos_token_id=forced,
            eos_token_id=2,
        )[0, 1:].tolist()
        assert result.tokens[0] == forced
        assert result.tokens == [token for token in expected if token != 1] or result.tokens == expected


def test_mbart_has_the_texts_language_last_and_starts_with_the_other(tmp_path) -> None:
    made, own = make("mbart"), tokenizer()
    english, german = (language_token(own, name) for name in ("eng_Latn", "deu_Latn"))
    end = own.eos_token
    own.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end} eng_Latn", special_tokens=[(end, own.eos_token_id), ("eng_Latn", english)]
    )
    made.generation_config.update(decoder_start_token_id=german, eos_token_id=2, forced_bos_token_id=None)
    made.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    with load(tmp_path) as engine:
        for source, last in ((None, english), ("deu_Latn", german)):
            [result] = engine.translate(TEXTS[:1], source=source, target="deu_Latn", num_beams=1, max_new_tokens=12)
            ids = [*own.encode(TEXTS[0], add_special_tokens=False), own.eos_token_id, last]
            given = torch.tensor([ids])
            expected = made.generate(given, num_beams=1, max_new_tokens=12, do_sample=False)[0].tolist()
            assert expected[0] == german and result.tokens == expected[1:]
        with pytest.raises(CutworkError, match="answers begin with deu_Latn, so it does not translate into 'fr'"):
            engine.translate("one", target="fr")


def test_languages_that_are_not_there_are_said(model) -> None:
    _, engine = model
    with pytest.raises(CutworkError, match="no language 'deu'; near to it: deu_Latn"):
        engine.translate("one", target="deu")
    with pytest.raises(CutworkError, match="no language 'the'"):  # a word is no language
        engine.translate("one", source="the", target="fr")


def test_what_is_no_text_and_a_model_without_a_tokenizer_are_said(model) -> None:
    _, engine = model
    with pytest.raises(CutworkError, match="the prompt"):
        engine.translate("one \ud800", source="eng_Latn", target="fr")
    with pytest.raises(CutworkError, match="has no tokenizer"):
        answers_in(None, [2], "fr")
