"""Models that are loaded when they are asked for, and go when others need the room or nobody has asked for long."""

import threading
import time

import httpx
import pytest

from cutwork.errors import CutworkError
from cutwork.serve.http.app import make_app
from cutwork.serve.limits import Limits

from .conftest import events, serving, until

SHORT = {"prompt": "the", "max_tokens": 3, "temperature": 0}


class Loads:
    """How a model is loaded: counts how often it was, and fails while `broken`."""

    def __init__(self, load):
        self._load, self.models, self.broken = load, [], False

    def __call__(self):
        if self.broken:
            raise CutworkError("/somewhere/secret cannot be read")
        self.models.append(self._load())
        return self.models[-1]


@pytest.fixture
def sources(load):
    return {"a": Loads(load), "b": Loads(load)}


def loaded(client):
    return [model["id"] for model in client.get("/v1/models").json()["data"] if model["cutwork"]["loaded"]]


def test_one_goes_where_another_is_asked_for(sources, load):
    with serving(load()) as plain:
        expected = plain.post("/v1/completions", json=SHORT).json()["choices"][0]["text"]
    with serving(sources, limits=Limits(loaded=1)) as client:
        cards = client.get("/v1/models").json()["data"]
        assert [card["id"] for card in cards] == ["a", "b"] and loaded(client) == ["b"]
        assert cards[0]["max_model_len"] == cards[1]["max_model_len"] and "chat" in cards[0]["cutwork"]
        for name in ("a", "b", "b", "a"):
            answer = client.post("/v1/completions", json=SHORT | {"model": name}).json()
            assert (answer["model"], answer["choices"][0]["text"]) == (name, expected)
            assert loaded(client) == [name] and client.get("/health/ready").status_code == 200
        assert [len(source.models) for source in sources.values()] == [3, 2]  # once each at the start
        assert sources["b"].models[0].executor is None  # closed: its memory is free
        assert client.post("/v1/completions", json=SHORT | {"model": "c"}).status_code == 404
        answer = client.post("/v1/embeddings", json={"input": "x", "model": "b"})
        assert answer.status_code == 400 and loaded(client) == ["a"]  # nothing is loaded for what it cannot do


def test_who_streams_is_not_disturbed(sources):
    with serving(sources, limits=Limits(loaded=1)) as client:
        model = sources["b"].models[0]
        step = model.session.step
        model.session.step = lambda: (time.sleep(0.02), step())[1]
        body = {"prompt": "the", "max_tokens": 40, "ignore_eos": True, "model": "b", "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as stream, httpx.Client(timeout=60) as other:
            lines = stream.iter_lines()
            next(lines)
            ended: list[int] = []

            def ask():
                answer = other.post(f"{client.base_url}/v1/completions", json=SHORT | {"model": "a"})
                ended.append(answer.status_code)

            thread = threading.Thread(target=ask)
            thread.start()
            assert "data: [DONE]" in lines
            thread.join()
        assert ended == [200] and loaded(client) == ["a"]


def test_who_waits_for_room_is_told_when_the_time_is_over(sources):
    with serving(sources, limits=Limits(loaded=1, deadline=1.0)) as client:
        place = client.app.state.models.places["b"]
        place.uses += 1  # as of a request that does not end
        assert client.post("/v1/completions", json=SHORT | {"model": "a"}).status_code == 504
        assert client.get("/health/ready").status_code == 200
        client.app.state.models._release(place)
        until(lambda: client.post("/v1/completions", json=SHORT | {"model": "a"}).status_code == 200)


def test_who_comes_after_waits_behind_who_waits_for_room(sources):
    with serving(sources, limits=Limits(loaded=1)) as client:
        models, order = client.app.state.models, []
        place = models.places["b"]
        place.uses += 1  # as of a request that goes on

        def ask(name):
            answer = httpx.post(f"{client.base_url}/v1/completions", json=SHORT | {"model": name}, timeout=60)
            order.append((name, answer.status_code))

        threads = [threading.Thread(target=ask, args=(name,)) for name in "abb"]
        threads[0].start()
        until(lambda: models.places["a"].uses == 1)
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.5)
        assert order == [] and place.uses == 1
        models._release(place)
        for thread in threads:
            thread.join()
        assert order == [("a", 200), ("b", 200), ("b", 200)] and loaded(client) == ["b"]


def test_who_waits_behind_a_load_is_told_when_the_time_is_over(sources):
    with serving(sources, limits=Limits(loaded=1, deadline=1.0)) as client:
        models = client.app.state.models
        models.places["b"].uses += 1
        assert client.post("/v1/completions", json=SHORT | {"model": "a"}).status_code == 504  # and is loaded later
        assert client.post("/v1/completions", json=SHORT | {"model": "b"}).status_code == 504
        assert models.places["b"].uses == 1
        models._release(models.places["b"])
        until(lambda: client.post("/v1/completions", json=SHORT | {"model": "b"}).status_code == 200)


def test_who_waits_for_a_load_does_not_wait_behind_another_that_waits_for_them(sources):
    """A model is asked for, then another, then the first again, while it is still being loaded."""
    with serving(sources, limits=Limits(loaded=1, deadline=20.0)) as client:
        models, go_on, order = client.app.state.models, threading.Event(), []
        load = models.places["a"].load
        models.places["a"].load = lambda: (go_on.wait(20), load())[1]

        def ask(name):
            answer = httpx.post(f"{client.base_url}/v1/completions", json=SHORT | {"model": name}, timeout=60)
            order.append((name, answer.status_code))

        threads = [threading.Thread(target=ask, args=(name,)) for name in "aba"]
        for uses, thread in zip(({"a": 1}, {"a": 1, "b": 1}, {"a": 2, "b": 1}), threads, strict=True):
            thread.start()
            until(lambda uses=uses: {name: p.uses for name, p in models.places.items() if p.uses} == uses)
        go_on.set()
        for thread in threads:
            thread.join()
        assert order == [("a", 200), ("a", 200), ("b", 200)]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 2}),
    ],
)
def test_a_request_does_not_wait_for_itself(sources, route, body):
    """While somebody waits until nobody uses its model, it asks for that once only."""
    with serving(sources, limits=Limits(loaded=1, deadline=20.0)) as client:
        models, go_on, codes = client.app.state.models, threading.Event(), []
        load = models.places["a"].load
        models.places["a"].load = lambda: (go_on.wait(20), load())[1]

        def ask(route, body):
            codes.append(httpx.post(f"{client.base_url}{route}", json=body, timeout=60).status_code)

        threads = [
            threading.Thread(target=ask, args=(route, body | {"model": "a"})),
            threading.Thread(target=ask, args=("/v1/completions", SHORT | {"model": "b"})),
        ]
        for name, thread in zip("ab", threads, strict=True):
            thread.start()
            until(lambda name=name: models.places[name].uses == 1)
        go_on.set()
        for thread in threads:
            thread.join()
        assert codes == [200, 200]


def test_who_leaves_while_a_model_is_loaded_counts_no_longer(sources):
    with serving(sources, limits=Limits(loaded=1)) as client:
        place = client.app.state.models.places["b"]
        place.uses += 1  # as of a request that goes on
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{client.base_url}/v1/completions", json=SHORT | {"model": "a"}, timeout=0.5)
        until(lambda: client.app.state.models.places["a"].uses == 0)
        client.app.state.models._release(place)


def test_what_nobody_asks_for_goes_and_comes_back(sources):
    with serving(sources, limits=Limits(idle=1.5)) as client:
        until(lambda: loaded(client) == [])
        assert client.get("/health/ready").status_code == 200 and client.get("/health/live").status_code == 200
        with client.stream("POST", "/v1/completions", json=SHORT | {"model": "a", "stream": True}) as response:
            assert events(response)
        assert loaded(client) == ["a"]
        until(lambda: loaded(client) == [])


def test_who_asks_while_it_is_unloaded_has_it_loaded_anew(sources, monkeypatch):
    from cutwork.serve import served_models

    end, ending, go_on = served_models._end, threading.Event(), threading.Event()
    with serving(sources, limits=Limits(idle=0.5)) as client:
        monkeypatch.setattr(served_models, "_end", lambda served: (ending.set(), go_on.wait(20), end(served)))
        assert ending.wait(20)
        [name] = [name for name in ("a", "b") if name not in loaded(client)]
        threading.Timer(0.2, go_on.set).start()
        answer = client.post("/v1/completions", json=SHORT | {"model": name})
        assert answer.status_code == 200, answer.text


def test_many_that_ask_at_once_have_it_loaded_once(sources):
    with serving(sources, limits=Limits(loaded=1)) as client:
        codes: list[int] = []

        def ask():
            codes.append(httpx.post(f"{client.base_url}/v1/completions", json=SHORT | {"model": "a"}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [200] * 8 and len(sources["a"].models) == 2


def test_what_cannot_be_loaded_again_is_said_and_tried_again(sources):
    with serving(sources, limits=Limits(loaded=1)) as client:
        sources["a"].broken = True
        answer = client.post("/v1/completions", json=SHORT | {"model": "a"})
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert "the model a cannot be loaded" in answer.text and "secret" not in answer.text
        assert client.post("/v1/completions", json=SHORT | {"model": "b"}).status_code == 200
        sources["a"].broken = False
        assert client.post("/v1/completions", json=SHORT | {"model": "a"}).status_code == 200


def test_what_is_wrong_at_the_start_is_said_then(sources):
    sources["b"].broken = True
    with pytest.raises(CutworkError, match="cannot be read"):
        make_app(sources, limits=Limits(loaded=1))
    for source in sources.values():
        for model in source.models:
            model.close()
