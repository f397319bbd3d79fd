"""/translate gives what `Model.translate` gives, within the server's limits."""

import pytest

from cutwork.serve.limits import Limits

from ..architectures.test_t5 import make
from ..engine import bart_tiny
from ..engine.test_languages import tokenizer
from ..text_to_text import load, save
from .conftest import metric, serving, until

TEXTS = ["a short one", "", "one that is a good deal longer"]
LONG = {"length_penalty": 1.0}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(make("v1.1"), tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def t5(directory):
    with serving(
        load(directory, max_batch=8, max_input=64), limits=Limits(prompts=3, beams=4, text_length=90)
    ) as client:
        yield client


def test_texts_equal_the_engine(t5, directory):
    answer = t5.post("/translate", json={"text": TEXTS, "num_beams": 2, "max_tokens": 9}).json()
    with load(directory, max_batch=8) as model:
        expected = model.translate(TEXTS, num_beams=2, max_new_tokens=9)
    assert [each["text"] for each in answer["translations"]] == [each.text for each in expected]
    assert [each["index"] for each in answer["translations"]] == [0, 1, 2]
    assert answer["translations"][0]["score"] == pytest.approx(expected[0].score)
    assert answer["usage"]["completion_tokens"] == sum(len(each.tokens) for each in expected)
    assert answer["object"] == "translation" and answer["model"] == "tiny"
    one = t5.post("/translate", json={"text": TEXTS[0], "num_beams": 2, "max_tokens": 9}).json()
    assert one["translations"][0]["text"] == answer["translations"][0]["text"]


def test_a_model_is_searched_as_it_says_within_the_servers_limits(tmp_path):
    made = make("v1.1")
    made.generation_config.update(num_beams=6, length_penalty=-3.0)
    save(made, tmp_path)
    with load(tmp_path, max_batch=8) as model:
        usual, other = (model.translate(TEXTS[0], num_beams=4, max_new_tokens=9, **more) for more in ({}, LONG))
    with serving(load(tmp_path, max_batch=8), limits=Limits(beams=4)) as client:
        for fields, expected in (({}, usual), (LONG, other)):
            answer = client.post("/translate", json={"text": TEXTS[0], "max_tokens": 9, **fields}).json()
            assert answer["translations"][0]["score"] == pytest.approx(expected.score)


def test_languages_may_be_named(tmp_path):
    made = bart_tiny.make("m2m-100")
    made.generation_config.update(eos_token_id=2)
    made.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    asked = {"source": "eng_Latn", "target": "deu_Latn"}
    with load(tmp_path, max_batch=8) as model:
        expected = model.translate(TEXTS[0], num_beams=2, max_new_tokens=9, **asked).text
    with serving(load(tmp_path, max_batch=8, max_input=64)) as client:
        fields = {"text": TEXTS[0], "num_beams": 2, "max_tokens": 9}
        assert client.post("/translate", json=fields | asked).json()["translations"][0]["text"] == expected
        for name in asked:
            response = client.post("/translate", json=fields | asked | {name: "xxx_Latn"})
            assert response.status_code == 400 and "no language 'xxx_Latn'" in response.json()["error"]["message"]


def test_tokens_of_a_beam_search_are_counted(t5):
    before = metric(t5, "generation_tokens_total"), metric(t5, "time_to_first_token_seconds_count")
    answer = t5.post("/translate", json={"text": TEXTS[0], "num_beams": 2, "max_tokens": 9}).json()
    until(lambda: metric(t5, "time_to_first_token_seconds_count") == before[1] + 1)
    assert metric(t5, "generation_tokens_total") - before[0] == answer["usage"]["completion_tokens"]


def test_what_an_encoder_reads_is_not_scored(t5):
    refused = t5.post("/v1/completions", json={"prompt": "hello", "echo": True, "logprobs": 0, "max_tokens": 0})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "echo"


def test_a_completion_is_answered_by_the_encoder_too(t5, directory):
    answer = t5.post("/v1/completions", json={"prompt": TEXTS[0], "temperature": 0, "max_tokens": 6}).json()
    with load(directory) as model:
        assert answer["choices"][0]["text"] == model.generate(TEXTS[0], max_new_tokens=6).text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": ["a"] * 4}, "text"),
        ({"text": "a" * 91}, "text"),
        ({"text": " "}, "text"),
        ({"text": []}, "text"),
        ({"text": "a", "num_beams": 5}, "num_beams"),
        ({"text": "a", "num_beams": 0}, "num_beams"),
        ({"text": "a", "prefix": "p" * 91}, "prefix"),
        ({"text": "a b c " * 15}, "prompt"),
        ({}, "text"),
    ],
)
def test_beyond_the_limits_is_a_400_in_openais_shape(t5, fields, param):
    response = t5.post("/translate", json=fields)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert param in error["param"], error


def test_a_decoder_only_model_says_so(client):
    response = client.post("/translate", json={"text": "a"})
    assert response.status_code == 400
    assert "does not translate" in response.json()["error"]["message"]
    assert client.get("/v1/models").json()["data"][0]["cutwork"]["translate"] is False
