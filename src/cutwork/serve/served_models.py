"""The models of a server by name: all loaded from the start, or each when it is asked for, as long as there is room."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from cutwork.engine.model import Model
from cutwork.errors import CutworkError
from cutwork.serve.http.errors import ApiError
from cutwork.serve.http.middleware import at_end
from cutwork.serve.http.stream import seconds_left, while_connected
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.limits import Limits
from cutwork.serve.metrics import Metrics, ModelMetrics
from cutwork.serve.model_facts import model_facts
from cutwork.serve.served_model import Abilities, ServedModel, start

log = logging.getLogger("cutwork.serve")

Source = Model | Callable[[], Model]  # loaded, or how to load it


@dataclass
class Place:
    """A name that the server knows, and its model while that is loaded. Changed on the event loop only.

    adapters: other names, by which one of the model's adapters answers. uses: requests that have asked for it and not
    ended. last: when one did, on the clock of time.monotonic. loading: one for all who wait for it, since a second
    could stand behind the load of another model, which waits until nobody uses this one.
    """

    name: str
    load: Callable[[], Model] | None
    abilities: Abilities
    card: dict[str, Any]
    adapters: tuple[str, ...]
    served: ServedModel | None
    uses: int = 0
    last: float = 0.0
    loading: asyncio.Task[ServedModel] | None = None


class ServedModels:
    """All models of a server; starts their threads.

    Those that are given as a function are loaded once at the start, one after another, so that what is wrong with one
    is said then; at most `limits.loaded` of them stay, and none that nobody has asked for in `limits.idle` seconds.
    """

    def __init__(self, models: Mapping[str, Source], metrics: Metrics, limits: Limits) -> None:
        self._turn, self._metrics, self._limits = FairLock(), metrics, limits
        self._changing, self._released = asyncio.Lock(), asyncio.Event()
        self._leaving: Place | None = None  # what a load waits for to be idle, which takes no request meanwhile
        self._settled = asyncio.Event()  # while there is none
        self._draining = False
        self.places: dict[str, Place] = {}
        for name, source in models.items():
            if not isinstance(source, Model):
                for place in self._surplus()[:1]:
                    assert place.served
                    _end(place.served)
                    place.served = None
            model = source if isinstance(source, Model) else source()
            self._check_new(name, *model.adapters)
            served = self._start(name, model)
            load = None if isinstance(source, Model) else source
            adapters, last = tuple(model.adapters), time.monotonic()
            self.places[name] = Place(name, load, served.abilities, model_facts(served), adapters, served, last=last)

    @property
    def all(self) -> dict[str, ServedModel]:
        """Those that are loaded."""
        return {place.name: place.served for place in self.places.values() if place.served}

    def place(self, name: str) -> Place:
        """What is known of a model, loaded or not, by its name or that of an adapter. Raises ApiError (404)."""
        place = self._known(name)
        if place is None:
            known = ", ".join(each for place in self.places.values() for each in (place.name, *place.adapters))
            raise ApiError(
                404, f"there is no model of that name here; served: {known}", param="model", code="model_not_found"
            )
        return place

    def _check_new(self, *names: str) -> None:
        for name in names:
            if self._known(name) or names.count(name) > 1:
                raise CutworkError(f"two models or adapters are called {name}; give one of them another name")

    def _known(self, name: str) -> Place | None:
        return self.places.get(name) or next((p for p in self.places.values() if name in p.adapters), None)

    async def find(self, request: Request, name: str | None) -> ServedModel:
        """A model by its name, loaded until the request that asks has ended; without a name, the only or first.

        Raises ApiError: 404, 503 if it cannot be loaded, 504 if it is not within the deadline.
        """
        place = self.place(next(iter(self.places)) if name is None else name)
        return (await self._use(request, place)).under(name)

    async def find_text(self, request: Request, name: str | None) -> ServedModel:
        """A model that writes text; without a name the first. Raises ApiError (400 too)."""
        return await self._find(request, name, lambda abilities: abilities.writes)

    async def find_speech(self, request: Request, name: str | None) -> ServedModel:
        """A model that hears speech; without a name the first. Raises ApiError (400 too)."""
        return await self._find(request, name, lambda abilities: abilities.hears)

    async def find_embedding(self, request: Request, name: str | None) -> ServedModel:
        """A model that makes vectors of texts; without a name the first. Raises ApiError (400 too)."""
        return await self._find(request, name, lambda abilities: abilities.embeds)

    async def find_classifier(self, request: Request, name: str | None) -> ServedModel:
        """A model that gives classes of texts; without a name the first. Raises ApiError (400 too)."""
        return await self._find(request, name, lambda abilities: abilities.classifies)

    async def find_translator(self, request: Request, name: str | None) -> ServedModel:
        """A model that translates, if there is one; by its name any."""
        first = next((place.name for place in self.places.values() if place.abilities.translates), None)
        return await self.find(request, first if name is None else name)

    async def _find(self, request: Request, name: str | None, fits: Callable[[Abilities], bool]) -> ServedModel:
        fitting = next((place for place in self.places.values() if fits(place.abilities)), None)
        place = self.place(name) if name is not None else fitting or next(iter(self.places.values()))
        if not fits(place.abilities):
            raise ApiError(400, f"the model {place.name} {place.abilities.where}", param="model")
        return (await self._use(request, place)).under(name)

    async def _use(self, request: Request, place: Place) -> ServedModel:
        """Its model, loaded now if need be, which stays until the request has ended: asked for once by each.

        Raises ApiError, and ClientLeft where nobody waits for it any more.
        """
        if place.served is not None and place is not self._leaving:
            self._hold(place)
            return place.served
        return await while_connected(request, self._awaited(place), seconds_left(request, self._limits.deadline))

    def _hold(self, place: Place) -> None:
        place.uses += 1
        at_end(lambda: self._release(place))

    async def _awaited(self, place: Place) -> ServedModel:
        while place is self._leaving:  # who comes now would keep those waiting who came before
            await self._settled.wait()
        self._hold(place)
        if place.served is not None:
            return place.served

        def seen(loading: asyncio.Task[ServedModel]) -> None:
            place.loading = None
            if not loading.cancelled():
                loading.exception()  # whoever still waits is told; nobody need

        if place.loading is None:
            place.loading = asyncio.create_task(self._load(place))
            place.loading.add_done_callback(seen)
        return await asyncio.shield(place.loading)  # goes on when a client leaves: others may wait

    def _release(self, place: Place) -> None:
        place.uses -= 1
        place.last = time.monotonic()
        self._released.set()

    async def _load(self, place: Place) -> ServedModel:
        async with self._changing:
            await self._make_room(place)
            if place.served is None:
                assert place.load
                try:
                    model = await asyncio.to_thread(place.load)
                except CutworkError as error:
                    log.error("%s cannot be loaded: %s", place.name, error)
                    raise ApiError(
                        503, f"the model {place.name} cannot be loaded now; try again later", retry=5
                    ) from None
                place.served = self._start(place.name, model)
                if self._draining:
                    place.served.thread.drain(0)
            return place.served

    async def _make_room(self, place: Place) -> None:
        """Unload what has to go before a model is loaded, once nobody uses it."""
        try:
            while place.served is None and (surplus := self._surplus()):
                [*idle] = (other for other in surplus if not other.uses)
                if idle:
                    await self._unload(idle[0])
                    continue
                if self._leaving is None:
                    self._leaving = surplus[0]
                    self._settled.clear()
                self._released.clear()
                await self._released.wait()
        finally:
            self._leaving = None
            self._settled.set()

    def _surplus(self) -> list[Place]:
        """Of which one has to go before another is loaded, if one has to: first that which was asked longest ago."""
        loaded = [place for place in self.places.values() if place.load and place.served]
        full = self._limits.loaded and len(loaded) >= self._limits.loaded
        return sorted(loaded, key=lambda place: place.last) if full else []

    def _start(self, name: str, model: Model) -> ServedModel:
        return start(name, model, ModelMetrics(self._metrics, name), self._limits, self._turn)

    async def _unload(self, place: Place) -> None:
        """A request that comes from now on loads it anew."""
        served, place.served = place.served, None
        log.info("%s is unloaded", place.name)
        if served:
            await asyncio.to_thread(_end, served)

    async def unload_idle(self) -> None:
        """Go on unloading what nobody has asked for in `limits.idle` seconds, for ever."""
        while True:
            await asyncio.sleep(min(1.0, self._limits.idle / 4))
            async with self._changing:
                for place in self._idle():
                    await self._unload(place)

    def _idle(self) -> Iterator[Place]:
        """Those whose time is over."""
        for place in self.places.values():
            if place.load and place.served and not place.uses and time.monotonic() > place.last + self._limits.idle:
                yield place

    @property
    def ready(self) -> bool:
        """Whether every model can take requests, once it is loaded."""
        return bool(self.places) and not self._draining and all(served.thread.ready for served in self.all.values())

    @property
    def alive(self) -> bool:
        """Whether every model's thread runs."""
        return all(served.thread.alive for served in self.all.values())

    def drain(self, seconds: float) -> None:
        """Take nothing new, and end what is still unfinished after so many seconds."""
        self._draining = True
        for served in self.all.values():
            served.thread.drain(seconds)

    def join(self) -> None:
        """Wait until all threads have ended, after `drain`, and let the models go: FastAPI's caches keep the routes."""
        for served in self.all.values():
            served.close()
        self.places.clear()


def _end(served: ServedModel) -> None:
    """Free a model that nobody uses, once its thread has ended."""
    served.thread.drain(0)
    served.close()
    served.model.close()
