"""The application: routes over models, behind the middleware."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from cutwork import __version__
from cutwork.errors import CutworkError
from cutwork.serve.http import errors
from cutwork.serve.http.middleware import RequestMiddleware
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics
from cutwork.serve.routes import (
    anthropic,
    audio,
    chat,
    classify,
    completions,
    embeddings,
    infill,
    info,
    responses,
    translate,
)
from cutwork.serve.routes.conversation import WARNING
from cutwork.serve.served_models import ServedModels, Source

STATIC = Path(__file__).parent / "static"


def make_app(
    models: Mapping[str, Source],
    *,
    limits: Limits | None = None,
    keys: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The server over models by name, loaded or to be loaded when they are asked for.

    keys: only for clients that know one of them. hosts: the names it goes by, if others are to be refused (see
    `RequestMiddleware`). origins: sites whose pages may ask (CORS).

    The models' threads start at once and stop with the application.
    """
    if not all(keys):
        raise CutworkError("an API key is empty, so everybody would know it; give another, or none at all")
    limits = limits or Limits()
    metrics = Metrics()
    served = ServedModels(models, metrics, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        unloading = asyncio.create_task(served.unload_idle()) if limits.idle else None
        yield
        if unloading:
            unloading.cancel()
        served.drain(0)
        served.join()

    app = FastAPI(title="Cutwork", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.models = served
    errors.install(app)

    app.include_router(completions.router(served, limits))
    app.include_router(infill.router(served, limits))
    app.include_router(chat.router(served, limits))
    app.include_router(responses.router(served, limits))
    app.include_router(anthropic.router(served, limits))
    app.include_router(audio.router(served, limits))
    app.include_router(embeddings.router(served, limits))
    app.include_router(classify.router(served, limits))
    app.include_router(translate.router(served, limits))
    app.include_router(info.router(served, limits, metrics))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.add_middleware(RequestMiddleware, limits=limits, keys=keys, hosts=hosts, origins=origins)
    if origins:  # outermost: browsers ask without a key whether they may ask
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", WARNING, "Retry-After"],
        )
    return app
