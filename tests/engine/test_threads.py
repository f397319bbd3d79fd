"""`Model` in several threads: whatever one of them meets, the others' answers are whole, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cutwork.engine.decoding.requests import Piece
from cutwork.engine.decoding.running import Chosen
from cutwork.engine.decoding.step_lock import StepLock
from cutwork.engine.model import Model
from cutwork.errors import CutworkError

from ..tiny_checkpoint import write_tiny_checkpoint

PROMPT = [65, 66, 67]
LONG = 120
ENDS = """
import sys, threading
from cutwork.engine.model import Model

model, started = Model.load(sys.argv[1], threads=1), threading.Event()

def steps():
    while True:
        model.logits([65] * 200)
        started.set()

threading.Thread(target=steps, daemon=True).start()
assert started.wait(30)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> object:
    path = tmp_path_factory.mktemp("threads") / "tiny"
    write_tiny_checkpoint(path)
    return path


@pytest.fixture
def model(tiny: str) -> Iterator[Model]:
    with Model.load(tiny, threads=1, max_batch=4, cache_bytes=1 << 24) as loaded:
        yield loaded


def answer(model: Model, **options: object) -> list[int]:
    return model.generate(PROMPT, **{"max_new_tokens": LONG, "ignore_eos": True, **options}).tokens  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, CutworkError])
def test_a_logits_processor_that_raises_ends_its_own_request(model: Model, error: type[Exception]) -> None:
    alone = answer(model)

    def bad(scores: object, tokens: list[int]) -> None:
        if len(tokens) == 5:
            raise error

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            others = [pool.submit(answer, model) for _ in range(2)]
            failing = pool.submit(answer, model, logits_processor=bad)
            assert type(failing.exception(30)) is error
            assert [other.result(30) for other in others] == [alone, alone]
    assert model._cache.free == model._cache.blocks


def test_an_interrupt_loses_no_token_of_another_thread(model: Model) -> None:
    alone = answer(model, max_new_tokens=600)
    with ThreadPoolExecutor(1) as pool:
        for wait in (0.0, 0.003, 0.01, 0.02):
            other = pool.submit(answer, model, max_new_tokens=600)
            timer = threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                while True:
                    answer(model, max_new_tokens=600)
            assert other.result(60) == alone
    assert model._cache.free == model._cache.blocks and answer(model, max_new_tokens=600) == alone


@pytest.mark.parametrize("stream", [False, True])
def test_an_interrupt_while_a_prompt_is_queued_leaves_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    add = model.session.add

    def interrupted(*prompt: object, **options: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return add(*prompt, **options)

    with monkeypatch.context() as patch:
        patch.setattr(model.session, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.generate(PROMPT, stream=stream)  # type: ignore[call-overload]
    assert model._cache.free == model._cache.blocks and not model.session.busy


def test_an_interrupt_while_a_text_gets_its_blocks_leaves_none_taken(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    extend = model._cache.extend

    def interrupted(*given: object) -> None:
        signal.raise_signal(signal.SIGINT)
        extend(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(model._cache, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.logits(PROMPT)
    answer(model, max_new_tokens=1)
    assert model._cache.free == model._cache.blocks


def test_an_exit_inside_a_step_comes_after_what_others_chose(model: Model) -> None:
    alone = answer(model)

    def leaves(scores: object, tokens: list[int]) -> None:
        if len(tokens) == 3:
            raise SystemExit

    whole = model.session.add(PROMPT, max_new_tokens=LONG, ignore_eos=True)
    model.session.add(PROMPT, max_new_tokens=LONG, ignore_eos=True, logits_processor=leaves)
    with pytest.raises(SystemExit):
        while True:
            model.session.step()
    while model.session.busy:
        model.session.step()
    assert whole.tokens == alone


def test_a_model_inside_its_own_step_is_refused_not_waited_for(model: Model) -> None:
    def asks(scores: object, tokens: list[int]) -> None:
        model.generate(PROMPT, max_new_tokens=1)

    with pytest.raises(CutworkError, match="inside its own step"):
        answer(model, logits_processor=asks)
    assert len(answer(model)) == LONG
    for _ in model.token_logprobs(PROMPT * 200):
        answer(model, max_new_tokens=2)  # whoever holds an iterator is in no step


def test_a_dropped_stream_and_one_that_breaks_leave_nothing(model: Model) -> None:
    stream = model.generate(PROMPT, stream=True, max_new_tokens=LONG, ignore_eos=True)
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError)  # type: ignore[attr-defined]
    logprobs = model.token_logprobs(PROMPT * 200)
    next(logprobs)
    del logprobs, stream
    answer(model, max_new_tokens=1)
    assert model._cache.free == model._cache.blocks and not model.session.busy


def in_child(function: object) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if function() else 2)  # type: ignore[operator]
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_after_a_fork_a_model_works_or_is_refused(model: Model) -> None:
    alone = answer(model)
    assert in_child(lambda: answer(model) == alone) == 0
    begun, end = threading.Event(), threading.Event()

    def pauses(scores: object, tokens: list[int]) -> None:
        begun.set()
        end.wait(30)

    def refused() -> bool:
        with pytest.raises(CutworkError, match="forked while another thread used the model"):
            answer(model)
        return True

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(answer, model, logits_processor=pauses)
        assert begun.wait(30)
        assert in_child(refused) == 0
        end.set()
        assert other.result(30) == alone
    assert answer(model) == alone


def test_a_closed_model_says_what_it_holds(model: Model) -> None:
    model.close()
    assert set(model.memory_bytes.values()) == {0} and model.sparsity == 1
    with pytest.raises(CutworkError, match="closed"):
        answer(model)


def test_a_turn_that_is_waited_for_can_be_interrupted() -> None:
    turn, end, taken = StepLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with turn:
            taken.set()
            end.wait(30)

    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert taken.wait(30)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), turn:
            raise AssertionError
        end.set()
    assert signal.getsignal(signal.SIGINT) is before and turn.take()
    turn.give_back()


def test_a_program_may_end_while_a_thread_is_in_a_step(tiny: str) -> None:
    """Python ends a daemon thread on its way back from C++, which would end the process with SIGABRT."""
    ends = [subprocess.Popen([sys.executable, "-c", ENDS, tiny]) for _ in range(3)]
    assert [end.wait(60) for end in ends] == [0, 0, 0]


@pytest.mark.parametrize("stream", [False, True])
def test_the_last_token_is_there_when_an_answer_ends_in_the_middle_of_anothers_step(
    model: Model, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """A step ends a request before it tells its last piece: who waits for it must not look in between."""
    whole = model.generate(PROMPT, max_new_tokens=1, ignore_eos=True)
    tell, ended = model.session._tell, threading.Event()

    def slow(chosen: list[Chosen]) -> list[Piece]:
        ended.set()
        time.sleep(0.2)
        return tell(chosen)

    pieces = model.generate(PROMPT, max_new_tokens=1, ignore_eos=True, stream=True)
    (request,) = model.session._requests.values()
    monkeypatch.setattr(model.session, "_tell", slow)

    def step() -> None:
        with model._turn:
            model.session.step()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(step)
        assert ended.wait(30) and request.finish_reason is not None
        assert whole.text and (("".join(pieces) if stream else model._shared._wait(request, None).text) == whole.text)
        other.result(30)
