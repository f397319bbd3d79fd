"""Jobs and the thread that works on them, without a model: limits, deadlines, drain, cancelling."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from cutwork.serve.http.errors import ApiError
from cutwork.serve.jobs.fair_lock import FairLock
from cutwork.serve.jobs.job import Job, ModelThread
from cutwork.serve.metrics import Metrics, ModelMetrics

from .conftest import until

MODEL = SimpleNamespace(
    session=SimpleNamespace(
        scheduler=SimpleNamespace(running=(), preemptions=0, cache=SimpleNamespace(free=1, blocks=1))
    )
)


class Counter(ModelThread[Job[int]]):
    """Sends 0, 1, 2, … to its only job while it may."""

    def __init__(self, metrics, limit=2):
        super().__init__(MODEL, ModelMetrics(metrics, "m"), limit=limit, turn=FairLock())
        self.job, self.count, self.released = None, 0, []
        self.pause = threading.Event()

    def work(self):
        self.job = self.take() or self.job
        time.sleep(0.001)
        if not self.pause.is_set():
            self.job.send(self.count)
            self.count += 1
            if self.count % 3 == 0:
                self.finish(self.job)

    def release(self, job):
        self.released.append(job)


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def thread(metrics):
    thread = Counter(metrics)
    thread.start()
    yield thread
    thread.drain(0)
    thread.join()


def count(metrics, name):
    return metrics.registry.get_sample_value(f"cutwork:{name}_total", {"model_name": "m"}) or 0


async def collect(job):
    return [event async for event in job]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_events_come_in_order_and_end_with_the_last_place(thread):
    async def main():
        assert await collect(thread.submit(Job(1, 10))) == [0, 1, 2]
        assert await collect(thread.submit(Job(2, 10))) == [3, 4, 5, 6, 7, 8]
        assert await collect(thread.submit(Job(0, 10))) == []  # nothing is to be computed
        assert thread.open == [] and thread.ready

    run(main())


def test_a_deadline_is_504_and_frees_what_was_held(thread, metrics):
    async def main():
        thread.pause.set()
        job = thread.submit(Job(2, 0.05))
        with pytest.raises(ApiError) as error:
            await collect(job)
        assert error.value.status == 504 and thread.released == [job]

    run(main())
    assert count(metrics, "request_timeout") == 2


def test_the_limit_is_429(thread, metrics):
    async def main():
        thread.pause.set()
        waits = thread.submit(Job(2, 10))
        with pytest.raises(ApiError) as error:
            thread.submit(Job(1, 10))
        assert error.value.status == 429 and error.value.retry >= 1
        with pytest.raises(ApiError) as error:
            thread.submit(Job(3, 10))
        assert error.value.status == 400  # there is never room for it
        thread.drop(waits)

    run(main())
    assert count(metrics, "request_rejected") == 1


def test_a_client_that_took_all_places_keeps_nobody_else_out(metrics):
    thread = Counter(metrics, limit=6)
    thread.start()
    thread.pause.set()

    async def main():
        def refused(places, client):
            with pytest.raises(ApiError) as error:
                thread.submit(Job(places, 10, client))
            return error.value.status == 429

        jobs = [thread.submit(Job(6, 10, "greedy"))]
        assert refused(1, "greedy") and refused(4, "other")
        jobs.append(thread.submit(Job(3, 10, "other")))  # half of them
        assert refused(1, "other") and refused(3, "third")
        jobs.append(thread.submit(Job(2, 10, "third")))  # a third
        for job in jobs:
            thread.drop(job)

    run(main())
    thread.drain(0)
    thread.join()


def test_what_comes_during_a_failing_step_is_not_computed_after_its_error(thread):
    work = thread.work

    def fail():
        thread.take()
        until(lambda: thread.waiting)
        thread.work = work
        raise RuntimeError("broken")

    async def main():
        thread.work = fail
        jobs = [thread.submit(Job(1, 10))]
        while thread.waiting:
            await asyncio.sleep(0.001)
        jobs.append(thread.submit(Job(1, 10)))
        for job in jobs:
            with pytest.raises(ApiError) as error:
                await collect(job)
            assert error.value.status == 500
        assert thread.waiting == 0 and thread.count == 0
        assert await collect(thread.submit(Job(1, 10))) == [0, 1, 2]

    run(main())


def test_cancelling_ends_it_once_also_when_it_has_ended(thread, metrics):
    async def main():
        thread.pause.set()
        job = thread.submit(Job(1, 10))
        while thread.waiting:
            await asyncio.sleep(0.001)
        job.cancel()
        while thread.open:
            await asyncio.sleep(0.001)
        job.cancel()
        thread.pause.clear()
        done = thread.submit(Job(1, 10))
        assert len(await collect(done)) == 3
        done.cancel()
        assert thread.released == [job]

    run(main())
    assert count(metrics, "request_cancelled") == 1


def test_draining_refuses_the_new_and_ends_the_old(thread):
    async def main():
        thread.pause.set()
        job = thread.submit(Job(1, 10))
        thread.drain(0.05)
        with pytest.raises(ApiError) as refused:
            thread.submit(Job(1, 10))
        with pytest.raises(ApiError) as ended:
            await collect(job)
        assert refused.value.status == ended.value.status == 503
        assert not thread.ready

    run(main())
    thread.join()


def test_an_event_loop_that_is_gone_ends_its_jobs(thread):
    async def main():
        thread.pause.set()
        return thread.submit(Job(1, 10))

    job = run(main())
    thread.pause.clear()
    end = time.monotonic() + 20
    while thread.open:
        assert time.monotonic() < end
        time.sleep(0.001)
    assert job.cancelled


def test_turns_go_to_who_has_waited_longest():
    turn, order, ready = FairLock(), [], threading.Barrier(3)

    def work(name):
        with turn:
            order.append(name)

    def busy():
        ready.wait()
        with turn:
            for _ in range(3):
                until(lambda: len(turn._waiting) == 1)
                order.append("busy")
                turn.offer()  # to one that waits: it is the first of them

    def visitor():
        ready.wait()
        for name in "abc":
            until(lambda: turn._held)
            work(name)

    threads = [threading.Thread(target=each) for each in (busy, visitor)]
    for each in threads:
        each.start()
    ready.wait()
    for each in threads:
        each.join(timeout=30)
    assert order == ["busy", "a", "busy", "b", "busy", "c"]
    with turn:  # nobody has it any more
        pass
