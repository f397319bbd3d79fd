"""The application: routes over models, behind the guard."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from cutwork import __version__
from cutwork.engine.model import Model
from cutwork.serve.http import errors
from cutwork.serve.http.middleware import Guard
from cutwork.serve.http.stream import ClientLeft
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics
from cutwork.serve.routes import audio, chat, completions, info, translate
from cutwork.serve.served_model import Engines

STATIC = Path(__file__).parent / "static"


def make_app(models: Mapping[str, Model], *, limits: Limits | None = None, keys: Sequence[str] = ()) -> FastAPI:
    """The server over loaded models, by name; with `keys`, only for clients that know one of them.

    Its workers start at once and stop with the application.
    """
    limits = limits or Limits()
    metrics = Metrics()
    engines = Engines(models, metrics, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engines.drain(0)
        engines.join()

    app = FastAPI(title="Cutwork", version=__version__, lifespan=lifespan, docs_url="/docs", redoc_url=None)
    app.state.engines = engines
    errors.install(app)

    @app.exception_handler(ClientLeft)
    async def _left(_: Request, __: ClientLeft) -> Response:
        return Response(status_code=499)

    app.include_router(completions.router(engines, limits))
    app.include_router(chat.router(engines, limits))
    app.include_router(audio.router(engines, limits))
    app.include_router(translate.router(engines, limits))
    app.include_router(info.router(engines, metrics))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.add_middleware(Guard, keys=keys, body_bytes=limits.body_bytes, audio_bytes=limits.audio_bytes)
    return app
