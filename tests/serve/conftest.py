"""A server over a tiny random model, in a thread of its own, reached through a real socket."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("torch")

import httpx
import uvicorn

from cutwork.engine.model import Model
from cutwork.serve.http.app import make_app
from cutwork.serve.http.connections import connections
from cutwork.serve.limits import Limits

from ..engine.tiny import byte_level_tokenizer, make, packed

TOOLS = (
    "{% if tools %}{% for t in tools %}tool {{ t.function.name }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
)


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TOOLS
    tokenizer.save_pretrained(path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    return path


@pytest.fixture(scope="session")
def llama():
    return make("llama", vocab_size=300, max_position_embeddings=512)


@pytest.fixture
def load(llama, directory):
    def load(**options):
        return Model(packed(llama, directory), **{"threads": 1, "max_batch": 4, "cache_bytes": 1 << 22, **options})

    return load


@pytest.fixture
def recorded(llama, tmp_path):
    """A server whose model has this chat template, and writes this answer if there is one."""

    def recorded(template, answer=None, special=(), added=()):
        tokenizer = byte_level_tokenizer()
        tokenizer.add_tokens(list(added))
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        model = Model(packed(llama, tmp_path), threads=1, max_batch=4, cache_bytes=1 << 22)
        if answer is not None:
            force(model, answer)
        return serving(model)

    return recorded


def force(model, answer):
    """Make a model write this answer, whatever it is asked."""
    session = model.session
    add = getattr(session.add, "free", session.add)
    tokens = dict(enumerate([*model.tokenizer.encode(answer), 2]))

    def forced(*given, **options):
        return add(*given, **options | {"forced_tokens": tokens})

    forced.free = add
    session.add = forced


@contextmanager
def serving(model, **options):
    """An httpx client of a server over `model`, or over several by name; the app is `client.app`."""
    models = model if isinstance(model, dict) else {"tiny": model}
    app = make_app(models, **options)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    protocol = connections(options.get("limits") or Limits())
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            while not server.started:
                time.sleep(0.01)
            client.app, client.model, client.server = app, model, server
            yield client
    finally:
        server.should_exit = True
        thread.join()
        for each in models.values():
            if isinstance(each, Model):
                each.close()


def only(client):
    """The one model that is loaded, as the server has it."""
    [served] = client.app.state.models.all.values()
    return served


@pytest.fixture
def client(load):
    with serving(load()) as client:
        yield client


@pytest.fixture
def small(load):
    """With limits that are easily reached."""
    limits = Limits(queue=2, choices=3, max_tokens=400, body_bytes=4096, stop_strings=2, stop_length=8, deadline=30)
    with serving(load(max_batch=1), limits=limits) as client:
        yield client


def events(response, done=True):
    """The events of a stream, [DONE] left out but required, or not there at all."""
    lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert (lines[-1] == "[DONE]") is done
    return [json.loads(line) for line in lines[: -1 if done else None]]


def metric(client, name, **labels):
    """A sample of /metrics."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"cutwork:{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def until(condition, seconds=20):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def idle(client):
    """Whether no sequence is anywhere and all blocks of the KV cache are free again, by the metrics."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    return all(metric(client, name) == 0 for name in names)


def slow(client, seconds):
    """Make every step of the engine take longer."""
    session = client.model.session
    step = session.step
    session.step = lambda: (time.sleep(seconds), step())[1]
