"""/v1/embeddings gives what `Model.embed` gives, to OpenAI's client too, within the server's limits."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutwork.engine.model import Model
from cutwork.serve.batch import run_batch
from cutwork.serve.limits import Limits

from ..engine.test_embedding import decoder, encoder, load, pooling, write
from ..engine.tiny import make as make_decoder
from ..engine.tiny import packed
from .conftest import metric, serving, until

TEXTS = ["the cloth", "a", "The embroiderer cuts the cloth away. " * 2]
LIMITS = Limits(inputs=6, deadline=30)


@pytest.fixture(scope="module", params=[encoder, decoder])
def directory(request, tmp_path_factory):
    modules = {"Pooling": pooling("lasttoken" if request.param is decoder else "mean"), "Normalize": {}}
    return write(request.param(), tmp_path_factory.mktemp("e") / "model", modules, prompts={"query": "find: "})


@pytest.fixture(scope="module")
def server(directory):
    with serving(load(directory), limits=LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def expected(directory):
    with load(directory) as model:
        return model.embed(TEXTS)


def ask(client, **fields):
    response = client.post("/v1/embeddings", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def vectors(answer):
    return np.array([each["embedding"] for each in answer["data"]], np.float32)


def test_every_kind_of_input_gives_the_engines_vectors(server, directory, expected):
    answer = ask(server, input=TEXTS, model="tiny")
    assert np.abs(vectors(answer) - expected).max() < 1e-6
    assert [each["index"] for each in answer["data"]] == [0, 1, 2]
    assert answer["object"] == "list" and answer["data"][0]["object"] == "embedding" and answer["model"] == "tiny"
    with load(directory) as model:
        ids = [tokens.ids.tolist() for tokens in model.embedder.read(TEXTS)]
    assert answer["usage"] == {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))}
    assert np.abs(vectors(ask(server, input=ids)) - expected).max() < 1e-6
    assert np.abs(vectors(ask(server, input=ids[0])) - expected[:1]).max() < 1e-6
    assert np.abs(vectors(ask(server, input=TEXTS[0])) - expected[:1]).max() < 1e-6


def test_base64_dimensions_prompts_and_lengths(server, directory, expected):
    answer = ask(server, input=TEXTS, encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in answer["data"]]
    assert np.abs(np.stack(decoded) - expected).max() < 1e-6
    short = vectors(ask(server, input=TEXTS, dimensions=5))
    cut = expected[:, :5] / np.linalg.norm(expected[:, :5], axis=1, keepdims=True)
    assert np.abs(short - cut).max() < 1e-6
    with load(directory) as model:
        assert np.abs(vectors(ask(server, input="a", prompt_name="query")) - model.embed("find: a")).max() < 1e-6
        assert np.abs(vectors(ask(server, input="a", normalize=False)) - model.embed("a", normalize=False)).max() < 1e-5
        long = "the " * 300
        assert np.abs(vectors(ask(server, input=long, truncate=True)) - model.embed(long)).max() < 1e-6
    response = server.post("/v1/embeddings", json={"input": ["a", long]})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded" and "input 2" in response.text


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({}, "input"),
        ({"input": []}, "from 1 to 6 inputs"),
        ({"input": ""}, "empty"),
        ({"input": ["a", ""]}, "empty"),
        ({"input": [[5], []]}, "empty"),
        ({"input": ["a"] * 7}, "from 1 to 6 inputs, not 7"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [[5, 300]]}, "token 300"),
        ({"input": [5] * 101}, "at most 100"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 49}, "dimensions must be from 1 to 48"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "prompt_name": "no"}, "no prompt 'no'"),
        ({"input": "a", "pooling": "cls"}, "not supported"),
        ({"input": ["a"] * 4, "prompt": "p" * 600_000}, "2400004 characters are to be read"),
        ({"input": "\ud800"}, "surrogates"),
    ],
)
def test_what_cannot_be_read_is_a_400_in_openais_shape(server, fields, what):
    response = server.post("/v1/embeddings", content=json.dumps(fields), headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error" and what in response.text


def test_models_have_their_own_routes(server, tmp_path):
    card = server.get("/v1/models").json()["data"][0]["cutwork"]
    assert card["embed"] and not card["transcribe"]
    for path, body in [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/translate", {"text": "a"}),
    ]:
        response = server.post(path, json=body)
        assert response.status_code == 400, (path, response.text)
    assert "use /v1/embeddings" in server.post("/v1/completions", json={"prompt": "a"}).text
    writing = Model(packed(make_decoder("llama", vocab_size=300), tmp_path), threads=1, cache_bytes=1 << 22)
    with serving(writing) as writes:
        response = writes.post("/v1/embeddings", json={"input": "a"})
        assert response.status_code == 400 and "writes text" in response.text


def test_openais_client_gets_the_same_numbers(server, expected):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            answer = client.embeddings.create(model="tiny", input=TEXTS, **form)
            found = [each.embedding for each in answer.data]
            if form.get("encoding_format") == "base64":
                found = [np.frombuffer(base64.b64decode(each), "<f4") for each in found]
            assert np.abs(np.array(found, np.float32) - expected).max() < 1e-6
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
        with pytest.raises(openai.BadRequestError) as error:
            client.embeddings.create(model="tiny", input=[])
        assert error.value.param == "input"


def test_many_clients_share_steps_and_each_gets_its_own(directory):
    texts = [f"{'the ' * (i % 20)}{i}" for i in range(40)]
    with load(directory) as model:
        expected = model.embed(texts)
    with serving(load(directory), limits=Limits(queue=64)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(client, input=text), texts))
        assert metric(client, "request_success_total", finished_reason="stop") == 40
    assert np.abs(np.concatenate([vectors(answer) for answer in answers]) - expected).max() < 1e-5


def slow(client, seconds):
    states = client.model.states
    of = states.of
    states.of = lambda *a, **k: (time.sleep(seconds), list(of(*a, **k)))[1]


def test_a_full_queue_is_429_and_others_go_on(directory):
    with serving(load(directory), limits=Limits(queue=1, deadline=30)) as client:
        slow(client, 0.5)
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: client.post("/v1/embeddings", json={"input": "a"}), range(8)))
        codes = [response.status_code for response in statuses]
        assert set(codes) == {200, 429} and codes.count(429) >= 4
        assert all("Retry-After" in r.headers for r in statuses if r.status_code == 429)
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_too_many_tokens_that_wait_are_429(directory):
    with serving(load(directory), limits=Limits(queue_tokens=30)) as client:
        slow(client, 0.5)
        first = threading.Thread(target=lambda: ask(client, input=[5] * 60))
        first.start()
        until(lambda: client.app.state.models.all["tiny"].reader.open)
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 429
        first.join()
        ask(client, input="a")


def test_a_deadline_a_client_that_leaves_and_a_failed_step_free_everything(directory):
    import httpx

    with serving(load(directory), limits=Limits(deadline=1.0)) as client:
        slow(client, 0.7)
        response = client.post("/v1/embeddings", json={"input": [[5] * 100] * 30})
        assert response.status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/embeddings", json={"input": [[5] * 100] * 30}, timeout=0.5)
        reader = client.app.state.models.all["tiny"].reader
        until(lambda: not reader.open and not reader._reading)
        of, client.model.states.of = client.model.states.of, None
        for _ in range(3):
            assert client.get("/health/ready").status_code == 200
            assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 500
        assert client.get("/health/ready").status_code == 503
        client.model.states.of = of
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        assert client.get("/health/ready").status_code == 200


def test_a_request_with_many_texts_does_not_keep_others_waiting(directory):
    with serving(load(directory), limits=Limits(deadline=60)) as client:
        slow(client, 0.05)
        with ThreadPoolExecutor(1) as pool:
            many = pool.submit(ask, client, input=[[5] * 100] * 300)
            until(lambda: client.app.state.models.all["tiny"].reader.open)
            ask(client, input="a")
            assert not many.done()
            assert len(many.result()["data"]) == 300


def test_a_batch_file_may_ask_for_vectors(directory, tmp_path, expected):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"custom_id": str(i), "url": "/v1/embeddings", "body": {"input": text}} for i, text in enumerate(TEXTS)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Model.load(directory, threads=1) as model:
        result = run_batch({"m": model}, source, output, limits=Limits(), progress=lambda done, total: None)
    assert result["answered"] == 3
    for line in map(json.loads, output.read_text().splitlines()):
        found = np.array(line["response"]["body"]["data"][0]["embedding"])
        assert np.abs(found - expected[int(line["custom_id"])]).max() < 1e-6
