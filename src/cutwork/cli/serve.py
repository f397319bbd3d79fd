"""`cutwork serve`: models behind OpenAI's HTTP routes."""

import errno
import ipaddress
import os
import re
import socket
import ssl
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cutwork.cli.loading import AdaptersOption, loads_model, named_adapters, named_model, tell_layouts, with_draft
from cutwork.errors import CutworkError
from cutwork.serve.limits import Limits

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions

GRACE = 5  # seconds in which the last answers leave once their sequences have ended


@loads_model(batches=True)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Model directories or Hub names; NAME=MODEL serves one under a name."),
    ],
    loading: "LoadOptions",
    adapter: AdaptersOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences computed together.")] = 64,
    max_loaded: Annotated[
        int, typer.Option(min=0, help="Models in memory at a time; others are loaded when asked for. 0: all.")
    ] = Limits.loaded,
    idle_timeout: Annotated[
        float, typer.Option(min=0, help="Unload a model that nobody asked for in so many seconds. 0: never.")
    ] = Limits.idle,
    queue: Annotated[int, typer.Option(min=0, help="Sequences that may wait; more get 429.")] = Limits.queue,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds one request may take.")] = Limits.deadline,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer a client may ask for.")] = Limits.max_tokens,
    pace: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds a step may take while answers stream; 0: no limit.")
    ] = Limits.pace,
    drain: Annotated[int, typer.Option(min=0, help="Seconds that running requests get after SIGTERM.")] = 30,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", help="Clients must send it; may be repeated. Default: CUTWORK_API_KEY, if set."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name that clients may call this server by, without --api-key; may be repeated."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this site ask, as https://example.org; may be repeated."),
    ] = None,
    allow_priority: Annotated[
        bool, typer.Option("--allow-priority", help="Let clients say with `priority` who is served first.")
    ] = False,
    tls_key: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Private key (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Certificate (PEM).")] = None,
) -> None:
    """Serve models over HTTP: OpenAI's routes, metrics, and a page to try them.

    Example: [bold]cutwork serve out/smollm2-gsm/packed/sparse-int8 --port 8000[/bold]

    [bold]cutwork serve small=out/packed/sparse-int8 large=out/large --max-loaded 1 --idle-timeout 300[/bold]

    [bold]cutwork serve out/packed/sparse-int8 --adapter sql=adapters/sql --adapter polite=adapters/polite[/bold]
    """
    if (tls_key is None) != (tls_cert is None):
        raise CutworkError("TLS needs both --tls-key and --tls-cert")
    if tls_key and tls_cert:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls_cert, tls_key)
        except (ssl.SSLError, OSError) as error:
            raise CutworkError(f"--tls-key and --tls-cert are no key and certificate in PEM: {error}") from None
    if adapter and len(models) > 1:
        raise CutworkError("--adapter belongs to one model; serve the others from another process")
    adapters = named_adapters(adapter)
    of_environment = os.environ.get("CUTWORK_API_KEY")
    keys = api_key or ([] if of_environment is None else [of_environment.strip()])
    if not all(key.strip() for key in keys):
        raise CutworkError(
            "--api-key (or CUTWORK_API_KEY) is empty, so everybody would know it; give a key, or neither"
        )
    if not all(key.isascii() and key.isprintable() for key in keys):
        raise CutworkError(
            "--api-key (or CUTWORK_API_KEY) has characters that not all clients send alike; take letters and digits"
        )
    for site in cors or ():
        if not re.fullmatch(r"\*|https?://[^/\s]+", site):
            raise CutworkError(f"--cors {site} is no origin; give scheme and host alone, as https://example.org")
    import uvicorn

    from cutwork.engine.model import Model
    from cutwork.serve.http.app import make_app
    from cutwork.serve.http.connections import connections
    from cutwork.serve.log import log_as_json
    from cutwork.serve.served_models import Source

    paths: dict[str, str] = {}
    for name, path in map(named_model, models):
        if name in paths:
            raise CutworkError(f"two models are called {name}; tell them apart with NAME=MODEL")
        paths[name] = path
    opened = _bind(host, port)
    log_as_json()
    named: dict[str, Source] = {}
    for name, path in paths.items():
        load = partial(Model.load, path, **(with_draft(loading, path) | {"max_batch": max_batch, "adapters": adapters}))
        named[name] = load if max_loaded or idle_timeout else load()
    files = _raise_file_limit()
    limits = Limits(
        queue=queue,
        deadline=deadline,
        max_tokens=max_tokens,
        pace=pace,
        loaded=max_loaded,
        idle=idle_timeout,
        priority=allow_priority,
        requests=min(Limits.requests, files // 4),
        idle_connections=min(Limits.idle_connections, files // 4),
    )
    address = opened.getsockname()
    local = ipaddress.ip_address(address[0]).is_loopback
    hosts = [*(allow_host or ()), host] if local or allow_host else None
    app = make_app(named, limits=limits, keys=keys, hosts=hosts, origins=cors or ())
    config = uvicorn.Config(
        app,
        http=connections(limits),
        ws="none",
        log_config=None,  # so that its lines are JSON as all others
        log_level="warning",
        access_log=False,
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,  # else any local client could give itself another address
        timeout_graceful_shutdown=drain + GRACE,
        ssl_keyfile=tls_key,
        ssl_certfile=tls_cert,
        server_header=False,
    )
    scheme = "https" if tls_key else "http"
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    for name, loaded in named.items():
        if isinstance(loaded, Model):  # others wait for their first request
            tell_layouts(name, loaded, slots=True)
    typer.echo(f"serving {', '.join([*named, *adapters])} at {scheme}://{shown}:{address[1]}", err=True)
    if not keys and "*" in (cors or ()):
        typer.echo("WARNING: any web page can use this server: --cors '*', and no --api-key.", err=True)
    if not keys and not local:
        typer.echo(
            f"WARNING: everybody who reaches {shown} can use this server: it has no --api-key and listens to other "
            "machines. Give it a key unless something before it checks who asks.",
            err=True,
        )
    server = uvicorn.Server(config)
    leave = server.handle_exit

    def handle_exit(signal: int, frame: FrameType | None) -> None:
        app.state.models.drain(drain)
        leave(signal, frame)

    server.handle_exit = handle_exit  # type: ignore[method-assign, assignment]  # a signal's first consequence
    server.run(sockets=[opened])


def _raise_file_limit() -> int:
    """As many open files, so connections, as the system lets this process have; returns how many."""
    if sys.platform == "win32":
        return 1 << 16  # it counts other things
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _bind(host: str, port: int) -> socket.socket:
    """The socket, before any model is loaded: a taken port is told at once.

    It listens already, as Linux lets a second socket have an address that nobody listens on: who asks meanwhile waits.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen()
    except UnicodeError:  # no name that could be looked up: a part of it is empty or too long
        raise CutworkError(f"cannot listen on {host}, which is no host's name; try another --host") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        other = "--host" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "--port"
        raise CutworkError(f"cannot listen on {host} port {port}: {reason}; try another {other}") from None
    return opened
