"""What stands before every route: hosts, keys, other sites' pages, bodies and headers that do not come."""

import asyncio
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
import uvicorn
from fastapi import HTTPException, Request, Response
from typer.testing import CliRunner
from uvicorn.protocols.http.h11_impl import H11Protocol

from cutwork.cli import app as commands
from cutwork.cli.serve import GRACE
from cutwork.errors import CutworkError
from cutwork.serve.http.app import make_app
from cutwork.serve.http.bodies import Bodies
from cutwork.serve.http.connections import connections
from cutwork.serve.http.middleware import RequestMiddleware, client_of
from cutwork.serve.limits import Limits

from ..tiny_checkpoint import write_tiny_checkpoint
from .conftest import only, serving, slow, until

SHORT = {"prompt": "the", "max_tokens": 3}


def test_a_name_from_elsewhere_is_not_this_server(load):
    with serving(load(), hosts=["own.example"]) as client:
        for host, status in {
            "127.0.0.1:80": 200,
            "[::1]:80": 200,
            "localhost": 200,
            "OWN.example:8000": 200,
            "attacker.example": 421,
            "localhost.attacker.example": 421,
            "a@localhost": 421,
            "[:::::]": 421,
            "[.]:80": 421,
        }.items():
            assert client.get("/v1/models", headers={"Host": host}).status_code == status, host
    with serving(load(), hosts=[], keys=["k"]) as client:  # which no page from elsewhere knows
        answer = client.get("/v1/models", headers={"Host": "x.example", "Authorization": "Bearer k"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://rewritten.example"}, 200),
    ],
)
def test_pages_of_other_sites_may_not_post(load, headers, status):
    with serving(load(), hosts=[]) as client:
        answer = client.post("/tokenize", json={"prompt": "a"}, headers=headers)
        assert answer.status_code == status and (status == 200 or "--cors" in answer.json()["error"]["message"])
        own = {"Origin": str(client.base_url).rstrip("/")}
        assert client.post("/tokenize", json={"prompt": "a"}, headers=own).status_code == 200


def test_empty_keys_are_refused(load, tmp_path):
    with load() as model, pytest.raises(CutworkError, match="empty"):
        make_app({"tiny": model}, keys=["good", ""])
    for arguments, environment in (
        (["--api-key", ""], {}),
        (["--api-key", " "], {}),
        ([], {"CUTWORK_API_KEY": ""}),
        ([], {"CUTWORK_API_KEY": "\n"}),  # of a file that holds nothing else
    ):
        result = CliRunner().invoke(commands, ["serve", str(tmp_path), *arguments], env=environment)
        assert result.exit_code == 1 and "is empty" in str(result.exception)
    result = CliRunner().invoke(commands, ["serve", str(tmp_path), "--api-key", "schlüssel"])
    assert result.exit_code == 1 and "not all clients send alike" in str(result.exception)


def test_a_key_of_the_environment_is_one_key(tmp_path, monkeypatch):
    monkeypatch.setattr("cutwork.engine.model.Model.load", lambda *_, **__: "the model")
    asked = []
    monkeypatch.setattr("cutwork.serve.http.app.make_app", lambda _, *, keys, **__: asked.append(keys) or sys.exit(3))
    for given, keys in ((["--api-key", "of", "--api-key", "two"], ["of", "two"]), ([], ["my phrase"])):
        arguments = ["serve", str(tmp_path), "--port", "0", *given]
        result = CliRunner().invoke(commands, arguments, env={"CUTWORK_API_KEY": "my phrase\n"})
        assert result.exit_code == 3 and asked.pop() == keys, result.output


def test_browsers_are_told_to_load_nothing_from_elsewhere(client):
    for path in ("/", "/v1/models", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
    assert client.get("/docs").status_code == 404 and "cdn" not in client.get("/").text
    assert client.get("/openapi.json").status_code == 200


@pytest.mark.parametrize(
    ("address", "client"),
    {
        "10.1.2.3": "10.1.2.3",
        "::ffff:10.1.2.3": "10.1.2.3",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
        "2001:db8:1:2::9": "2001:db8:1:2::/64",
    }.items(),
)
def test_a_client_has_all_addresses_of_its_network(address, client):
    """Else one would count as many."""
    seen = []

    async def app(scope, receive, send):
        seen.append(client_of(Request(scope)))
        await Response()(scope, receive, send)

    async def ask():
        transport = httpx.ASGITransport(RequestMiddleware(app, limits=Limits()), client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as asking:
            await asking.get("/")

    asyncio.run(ask())
    assert seen == [client]


def test_a_client_is_a_verified_key_or_an_address(load):
    def clients(server, headers):
        seen = set()
        submit = only(server).thread.submit
        only(server).thread.submit = lambda job: (seen.add(job.client), submit(job))[1]
        for header in headers:
            server.post("/v1/completions", json=SHORT, headers={"Authorization": header})
        return seen

    with serving(load()) as client:
        assert clients(client, ["Bearer 1", "Bearer 2", "x"]) == {"127.0.0.1"}
    with serving(load(), keys=["one", "two"]) as client:
        assert clients(client, ["Bearer one", "bearer one", "BEARER two"]) == {"key 0", "key 1"}


def test_priority_is_the_operators_to_allow(load):
    with serving(load()) as client:
        assert client.post("/v1/completions", json={**SHORT, "priority": -1}).status_code == 400
        assert client.post("/v1/completions", json={**SHORT, "priority": 0}).status_code == 200
    with serving(load(), limits=Limits(priority=True)) as client:
        assert client.post("/v1/completions", json={**SHORT, "priority": -1}).status_code == 200


def test_a_key_learns_nothing_of_anothers_prompts(load):
    with serving(load(), keys=["one", "two"]) as client:

        def cached(key):
            body = {"prompt": list(range(3, 103)), "max_tokens": 1}
            answer = client.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}).json()
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert cached("one") == 0 and cached("one") > 0 and cached("two") == 0


def test_what_was_cached_is_counted_for_each_prompt(load):
    with serving(load()) as client:

        def cached(*prompts, n=1):
            body = {"prompt": prompts, "max_tokens": 1, "n": n}
            usage = client.post("/v1/completions", json=body).json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

        first, second = list(range(3, 103)), list(range(103, 203))
        assert cached(first, n=3) == 0
        alone = cached(first)
        assert alone > 0 and cached(first, second) == alone and cached(first, second, n=2) == 2 * alone


def test_headers_have_to_come_in_time(load):
    with serving(load(), limits=Limits(header_seconds=0.3)) as client:
        for opening in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: "):
            with connect(client) as slow_one:
                slow_one.sendall(opening)
                assert slow_one.recv(1) == b""
        assert client.get("/v1/models").status_code == 200


def test_those_that_say_nothing_take_nobodys_place(load):
    with serving(load(), limits=Limits(idle_connections=3)) as client:
        held = [connect(client) for _ in range(5)]
        assert held[0].recv(1) == b"" and held[1].recv(1) == b""
        assert client.get("/health/live").status_code == 200
        for one in held:
            one.close()


def test_a_body_has_to_come_in_time(load):
    with serving(load(), limits=Limits(body_seconds=0.3)) as client, connect(client) as slow_one:
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        slow_one.sendall(head + b"{")
        assert slow_one.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("charset", ["punycode", '"Punycode"', "utf-8; charset=idna", "utf-7", "latin-1", ""])
def test_a_form_in_another_charset_is_refused_before_it_is_read(client, charset):
    """As decoding it may take the square of its length, on the event loop."""
    with connect(client) as one:
        head = f"multipart/form-data; boundary=b; charset={charset}\r\nContent-Length: 999999\r\n\r\n"
        one.sendall(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: " + head.encode())
        assert one.recv(10_000).startswith(b"HTTP/1.1 400")


def test_a_forms_charset_may_be_named(client):
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    headers = {"Content-Type": 'multipart/form-data; charset="UTF-8"; boundary=b'}
    answer = client.post("/v1/audio/transcriptions", content=form, headers=headers)
    assert "writes text" in answer.json()["error"]["message"]


def ask_for(client, size):
    """A connection that has asked for so many bytes and reads none of them."""
    paths = [getattr(route, "path", "") for route in client.app.routes]
    if "/large" not in paths:
        client.app.add_api_route("/large", lambda size: Response(b"x" * int(size)))
    reader = connect(client)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    reader.sendall(b"GET /large?size=%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % size)
    return reader


def bytes_of(reader):
    """How much there is to read, until the connection ends or is cut."""
    count = 0
    with suppress(ConnectionResetError):
        while part := reader.recv(1 << 20):
            count += len(part)
    return count


def test_an_answer_that_nobody_reads_is_let_go(load):
    with serving(load(), limits=Limits(unread_seconds=0.3)) as client, ask_for(client, 32 << 20) as never:
        time.sleep(1.5)
        assert bytes_of(never) < 32 << 20


class Unread(asyncio.Transport):
    """A connection whose client has left so many bytes unread."""

    def __init__(self, unread):
        super().__init__()
        self.unread, self.cut = unread, False

    def get_write_buffer_size(self):
        return self.unread

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def is_closing(self):
        return self.cut

    def abort(self):
        self.cut = True


@pytest.mark.parametrize(("deadline", "cut"), [(60.0, False), (0.3, True)])
def test_who_reads_slowly_may_take_as_long_as_a_request(deadline, cut):
    async def main():
        config = uvicorn.Config(print)
        made = connections(Limits(unread_seconds=0.3, deadline=deadline))
        connection = made(config, uvicorn.server.ServerState(), {})
        transport = Unread(1 << 20)
        connection.connection_made(transport)
        connection.pause_writing()
        for _ in range(60):
            await asyncio.sleep(0.02)
            transport.unread -= 100
        assert transport.cut == cut
        if not cut:
            await asyncio.sleep(0.8)
            assert transport.cut  # no longer read

    asyncio.run(main())


def test_the_largest_of_the_answers_that_nobody_reads_goes(load):
    small, large = 24 << 20, 48 << 20
    with serving(load(), limits=Limits(unread_bytes=40 << 20)) as client, ask_for(client, small) as one:
        time.sleep(0.3)
        with ask_for(client, large) as other:
            time.sleep(0.3)
            assert bytes_of(one) > small and bytes_of(other) < large


def test_health_is_answered_when_nothing_else_is(load):
    with serving(load(), limits=Limits(requests=1)) as client:
        slow(client, 0.02)
        long = {**SHORT, "max_tokens": 200, "ignore_eos": True}
        thread = threading.Thread(target=client.post, args=("/v1/completions",), kwargs={"json": long})
        thread.start()
        until(lambda: client.get("/v1/models").status_code == 503)
        assert client.get("/health/live").status_code == client.get("/health/ready").status_code == 200
        thread.join()
        assert client.get("/v1/models").status_code == 200


def message(size, more):
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_the_largest_of_the_unfinished_bodies_goes():
    async def main():
        bodies = Bodies(Limits(unfinished_bytes=100, held_bytes=150))
        queues = [asyncio.Queue() for _ in range(3)]
        large, small, whole = (bodies.open(queue.get, 1000) for queue in queues)
        queues[0].put_nowait(message(90, True))
        await large.receive()
        hanging = asyncio.create_task(large.receive())
        await asyncio.sleep(0)
        queues[1].put_nowait(message(20, True))
        await small.receive()
        with pytest.raises(HTTPException) as error:
            await hanging
        assert error.value.status_code == 503
        bodies.close(large)
        queues[2].put_nowait(message(140, False))
        with pytest.raises(HTTPException) as error:  # with all that is held already
            await whole.receive()
        assert error.value.status_code == 503

    asyncio.run(main())


def test_bodies_are_bounded_in_size_and_time():
    async def main():
        bodies = Bodies(Limits(body_seconds=0.05))
        queue = asyncio.Queue()
        body = bodies.open(queue.get, 10)
        queue.put_nowait(message(11, False))
        with pytest.raises(HTTPException) as error:
            await body.receive()
        assert error.value.status_code == 413
        with pytest.raises(HTTPException) as error:
            await bodies.open(queue.get, 10).receive()
        assert error.value.status_code == 408

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Calls `cutwork serve` with some options: what it says, and the server's configuration, which is not run."""
    write_tiny_checkpoint(tmp_path / "tiny", seed=0)

    def call(*arguments):
        seen = []

        def run(self, sockets):
            seen.append(self.config)
            self.config.app.state.models.drain(0)
            self.config.app.state.models.join()
            sockets[0].close()

        monkeypatch.setattr("uvicorn.Server.run", run)
        monkeypatch.setattr("cutwork.serve.log.log_as_json", lambda: None)
        result = CliRunner().invoke(commands, ["serve", str(tmp_path / "tiny"), "--port", "0", *arguments])
        assert result.exit_code == 0, result.output
        [config] = seen
        return result.output, config

    return call


@pytest.mark.parametrize(
    ("arguments", "loud"),
    [(["--host", "0.0.0.0"], True), (["--host", "0.0.0.0", "--api-key", "k"], False), ([], False)],
)
def test_a_server_that_is_open_to_others_says_so(configured, arguments, loud):
    said, config = configured(*arguments)
    assert ("WARNING: everybody" in said) == loud
    assert issubclass(config.http, H11Protocol)  # which bounds the size of headers


@pytest.mark.parametrize("given", [None, "10.0.0.1"])
def test_only_a_proxy_that_is_named_gives_clients_another_address(configured, monkeypatch, given):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if given:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", given)
    _, config = configured()
    assert config.proxy_headers == (given is not None)
    assert given in (None, config.forwarded_allow_ips)


def test_options_of_the_command_reach_the_server(configured):
    _, config = configured(
        *("--queue", "7", "--deadline", "8", "--max-tokens", "9", "--pace", "0.5", "--max-loaded", "1"),
        *("--idle-timeout", "11", "--drain", "12", "--allow-priority", "--allow-host", "own.example"),
    )
    [stands_before] = [each for each in config.app.user_middleware if each.cls is RequestMiddleware]
    limits = stands_before.kwargs["limits"]
    assert (limits.queue, limits.deadline, limits.max_tokens, limits.pace) == (7, 8, 9, 0.5)
    assert (limits.loaded, limits.idle, limits.priority) == (1, 11, True)
    assert stands_before.kwargs["hosts"] == ["own.example", "127.0.0.1"]
    assert config.timeout_graceful_shutdown == 12 + GRACE
    _, usual = configured()
    [stands_before] = [each for each in usual.app.user_middleware if each.cls is RequestMiddleware]
    assert replace(stands_before.kwargs["limits"], requests=Limits.requests) == Limits()
