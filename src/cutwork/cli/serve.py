"""`cutwork serve`: models behind OpenAI's HTTP routes."""

import logging
import socket
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cutwork.cli.loading import loads_model
from cutwork.errors import CutworkError

if TYPE_CHECKING:
    from cutwork.engine.load_options import LoadOptions

GRACE = 5  # seconds in which the last answers leave once their sequences have ended


@loads_model()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Model directories or Hub names; NAME=MODEL serves one under a name."),
    ],
    loading: "LoadOptions",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Sequences computed together.")] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Sequences that may wait; more get 429.")] = 256,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds one request may take.")] = 600,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer a client may ask for.")] = 65536,
    pace: Annotated[
        float, typer.Option(min=0, max=60, help="Seconds a step may take while answers stream; 0: no limit.")
    ] = 0.25,
    drain: Annotated[int, typer.Option(min=0, help="Seconds that running requests get after SIGTERM.")] = 30,
    api_key: Annotated[
        list[str] | None,
        typer.Option("--api-key", envvar="CUTWORK_API_KEY", help="Clients must send it; may be repeated."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Private key (PEM).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Certificate (PEM).")] = None,
) -> None:
    """Serve models over HTTP: OpenAI's routes, metrics, and a page to try them.

    Example: [bold]cutwork serve out/smollm2-gsm/packed/sparse-int8 --port 8000[/bold]
    """
    if (tls_key is None) != (tls_cert is None):
        raise CutworkError("TLS needs both --tls-key and --tls-cert")
    import uvicorn

    from cutwork.engine.model import Model
    from cutwork.serve.http.app import make_app
    from cutwork.serve.limits import Limits

    opened = _bind(host, port)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loaded: dict[str, Model] = {}
    for given in models:
        name, path = _name(given)
        if name in loaded:
            raise CutworkError(f"two models are called {name}; tell them apart with NAME=MODEL")
        loaded[name] = Model.load(path, **(loading | {"max_batch": max_batch}))
    limits = Limits(queue=queue, deadline=deadline, max_tokens=max_tokens, pace=pace)
    app = make_app(loaded, limits=limits, keys=api_key or ())
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=drain + GRACE,
        limit_concurrency=limits.connections,
        ssl_keyfile=tls_key,
        ssl_certfile=tls_cert,
        server_header=False,
    )
    address = opened.getsockname()
    scheme = "https" if tls_key else "http"
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    typer.echo(f"serving {', '.join(loaded)} at {scheme}://{shown}:{address[1]}", err=True)
    server = uvicorn.Server(config)
    leave = server.handle_exit

    def handle_exit(signal: int, frame: FrameType | None) -> None:
        app.state.models.drain(drain)
        leave(signal, frame)

    server.handle_exit = handle_exit  # type: ignore[method-assign, assignment]  # a signal's first consequence
    server.run(sockets=[opened])


def _name(given: str) -> tuple[str, str]:
    """(name to serve it under, model): the directory's name unless another is given."""
    name, equals, path = given.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return (Path(given).resolve().name if Path(given).is_dir() else given), given


def _bind(host: str, port: int) -> socket.socket:
    """The socket, before any model is loaded: a taken port is told at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CutworkError(f"cannot listen on {host} port {port}: {reason}; try another --port") from None
    return opened
