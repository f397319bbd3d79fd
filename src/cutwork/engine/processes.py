"""Processes that each have a model: a small one gains more by them than by threads, which meet in every layer."""

import atexit
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from cutwork.engine.backend import choose, threads_for
from cutwork.engine.decoding.requests import Generation
from cutwork.engine.load_options import LoadOptions, result_key, with_defaults
from cutwork.engine.model import Model
from cutwork.engine.translation import BATCHES, TranslateOptions, TranslationProgress
from cutwork.engine.weights.cache_size import usual_budget
from cutwork.errors import CutworkError
from cutwork.store.resolve import resolve


class ModelProcesses:
    """`count` processes that load a model each, when there is work for them, and share the threads equally.

    Options as of `Model.load`; max_batch and cache_bytes are each process's own, the usual cache is divided among them.
    To be closed, or used in a `with`. Raises CutworkError for options out of range.
    """

    def __init__(self, path: str | Path, count: int, **options: Unpack[LoadOptions]) -> None:
        checked = with_defaults(options)
        if count < 1:
            raise CutworkError(f"there must be at least 1 process, not {count}")
        threads = threads_for(choose(checked["backend"]), checked["threads"])
        self._loading: LoadOptions = {**checked, "threads": max(1, threads // count)}
        if checked["cache_bytes"] is None:
            self._loading["cache_bytes"] = usual_budget() // count
        self.path, self.count = resolve(path, codes=True), count
        spawn = get_context("spawn")  # a fork of a process with threads may wait for ever
        self.loaded_with = result_key(checked)
        self._pool = ProcessPoolExecutor(count, spawn, initializer=_begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes once each is done with its piece; pieces that nobody has begun are dropped."""
        self._pool.shutdown(cancel_futures=True)

    def each(self, method: str, pieces: Sequence[Any], **options: Any) -> Iterator[tuple[int, Any]]:
        """(number of a piece, what that method of `Model` makes of it), as they are done; the CutworkError that it
        raised instead, or that the model could not be loaded with.

        Raises CutworkError where a process has died.
        """
        numbers = {
            self._pool.submit(_call, self.path, self._loading, method, piece, options): i
            for i, piece in enumerate(pieces)
        }
        try:
            for done in as_completed(numbers):
                try:
                    result = done.result()
                except CutworkError as error:
                    result = error
                yield numbers[done], result
        except BrokenProcessPool:
            raise CutworkError(
                "one of the processes ended before it was done, perhaps for want of memory; use fewer of them"
            ) from None
        finally:
            for future in numbers:
                future.cancel()

    def translate(
        self, texts: Sequence[str], *, progress: TranslationProgress | None = None, **options: Unpack[TranslateOptions]
    ) -> list[Generation]:
        """As `Model.translate`, of several texts."""
        results: dict[int, Generation] = {}
        dealt = deal(texts, self.count, BATCHES * self._loading["max_batch"])
        for number, answers in self.each("translate", [[texts[i] for i in piece] for piece in dealt], **options):
            if isinstance(answers, CutworkError):
                raise answers
            done: Mapping[int, Generation] = dict(zip(dealt[number], answers, strict=True))
            results.update(done)
            if progress:
                progress(done)
        return [results[i] for i in range(len(texts))]


def deal(texts: Sequence[str], hands: int, most: int) -> list[list[int]]:
    """Places of texts in pieces of at most `most`, as many for each of `hands`, all with long and short ones alike."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    count = min(hands * -(-len(texts) // (hands * most)), len(texts))
    return [order[i::count] for i in range(count)]


# What follows happens in a process of the pool.
_models: list[Model] = []  # its one, once there is work for it


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches this process too, and is the parent's to speak of
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _call(path: Path, loading: LoadOptions, method: str, piece: Any, options: Mapping[str, Any]) -> Any:
    if not _models:
        _models.append(Model.load(path, **loading))
        atexit.register(_models.clear)  # before the native module is taken down
    return getattr(_models[0], method)(piece, **options)
