"""Adapters of a model are models of their own to clients: listed, chosen by name, answered as they would be alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cutwork.errors import CutworkError
from cutwork.serve.http.app import make_app
from cutwork.serve.limits import Limits

from ..engine.test_adapters import OPTIONS, adapted
from .conftest import serving

PROMPT = "Once upon a time there was"


@pytest.fixture(scope="module")
def adapters(llama, tmp_path_factory):
    paths = {name: tmp_path_factory.mktemp(name) for name in OPTIONS}
    for seed, (name, path) in enumerate(paths.items()):
        adapted(llama, path, seed, **OPTIONS[name])
    return paths


@pytest.fixture
def client(load, adapters):
    with serving(load(adapters=adapters)) as client:
        yield client


@pytest.fixture
def alone(load, adapters):
    """What the model and each adapter write by themselves."""
    with load(adapters=adapters) as model:
        names = {"tiny": None, **dict.fromkeys(adapters)} | {name: name for name in adapters}
        return {name: model.generate(PROMPT, max_new_tokens=12, adapter=by).text for name, by in names.items()}


def complete(client, name, **more):
    body = {"model": name, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **more}
    return client.post("/v1/completions", json=body)


def test_adapters_are_listed_with_their_model(client):
    listed = client.get("/v1/models").json()["data"]
    assert [(model["id"], model.get("parent")) for model in listed] == [
        ("tiny", None),
        ("all", "tiny"),
        ("some", "tiny"),
    ]
    assert client.get("/v1/models/some").json()["parent"] == "tiny"


def test_requests_at_a_time_get_the_adapter_that_they_name(client, alone):
    assert len(set(alone.values())) == 3
    names = ["tiny", "all", "some", "all", "tiny", "some", "all"]
    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(lambda name: complete(client, name).json(), names))
    for name, answer in zip(names, answers, strict=True):
        assert (answer["model"], answer["choices"][0]["text"]) == (name, alone[name])
    assert complete(client, None).json()["choices"][0]["text"] == alone["tiny"]


def test_chats_name_an_adapter_too(client):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0}
    answers = [client.post("/v1/chat/completions", json=body | {"model": name}).json() for name in ("tiny", "all")]
    assert [answer["model"] for answer in answers] == ["tiny", "all"]
    assert answers[0]["choices"][0]["message"] != answers[1]["choices"][0]["message"]


def test_the_prompts_own_tokens_are_scored_by_the_adapter(client):
    scores = {}
    for name in ("tiny", "all"):
        answer = complete(client, name, echo=True, logprobs=0, max_tokens=0).json()
        scores[name] = answer["choices"][0]["logprobs"]["token_logprobs"]
    expected = [
        each.logprob for each in next(client.model.token_logprobs(client.model.encode(PROMPT), adapter="all"))[1:]
    ]
    assert scores["all"][1:] == pytest.approx(expected, abs=1e-4)
    assert scores["all"][1:] != pytest.approx(scores["tiny"][1:], abs=1e-2)


def test_an_unknown_name_tells_those_of_adapters(client):
    answer = complete(client, "other")
    assert answer.status_code == 404
    assert "tiny, all, some" in answer.json()["error"]["message"]


def test_a_name_belongs_to_one(load, adapters):
    with load(adapters=adapters) as model, pytest.raises(CutworkError, match="two models or adapters are called all"):
        make_app({"all": model})


def test_an_adapters_model_is_loaded_when_the_adapter_is_asked_for(load, adapters, alone):
    models = {"tiny": lambda: load(adapters=adapters), "other": load}
    with serving(models, limits=Limits(loaded=1)) as client:
        for name in ("all", "other", "some"):
            answer = complete(client, name).json()
            assert (answer["model"], answer["choices"][0]["text"]) == (name, alone.get(name, alone["tiny"]))
