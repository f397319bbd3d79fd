"""Processes with a model each: what they answer, and what becomes of their errors."""

import os
import signal
from pathlib import Path

import pytest

from cutwork.engine.model import Model
from cutwork.engine.processes import ModelProcesses, deal
from cutwork.errors import CutworkError
from tests.architectures.test_t5 import make
from tests.text_to_text import save

TEXTS = ["a short one", "", "one that is a good deal longer than the first", "b", "in the middle"]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make("v1.1"), tmp_path_factory.mktemp("t5"))


def test_they_answer_as_one_model_does_and_their_errors_are_the_models_own(t5: Path) -> None:
    with Model.load(t5, threads=1, max_batch=4) as model:
        expected = model.translate(TEXTS, num_beams=2, max_new_tokens=6)
    told: dict[int, str] = {}
    with ModelProcesses(t5, 2, threads=2, max_batch=4) as processes:
        assert processes.path == t5
        answers = processes.translate(
            TEXTS,
            num_beams=2,
            max_new_tokens=6,
            progress=lambda done: told.update({i: answer.text for i, answer in done.items()}),
        )
        assert [(a.text, a.tokens, a.score) for a in answers] == [(a.text, a.tokens, a.score) for a in expected]
        assert told == dict(enumerate(a.text for a in answers))
        with pytest.raises(CutworkError, match="num_beams must be at most 4"):
            processes.translate(TEXTS, num_beams=5)
        assert processes.translate(TEXTS[:1], num_beams=2, max_new_tokens=6)[0].tokens == expected[0].tokens


def test_one_that_dies_is_told_of_in_a_sentence(t5: Path) -> None:
    with ModelProcesses(t5, 1, threads=1) as processes:
        processes.translate(["a"], num_beams=1, max_new_tokens=2)
        [number] = processes._pool._processes
        os.kill(number, signal.SIGKILL)
        with pytest.raises(CutworkError, match="ended before it was done"):
            processes.translate(["a"], num_beams=1)


def test_what_cannot_be_loaded_is_told_of_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CutworkError, match="no model directory"):
        ModelProcesses(tmp_path / "nothing", 2)
    with pytest.raises(CutworkError, match="at least 1 process"):
        ModelProcesses(tmp_path, 0)


@pytest.mark.parametrize(("count", "hands", "most"), [(0, 2, 4), (3, 2, 4), (1, 8, 4), (17, 2, 4), (100, 3, 7)])
def test_texts_are_dealt_in_pieces_of_alike_lengths(count: int, hands: int, most: int) -> None:
    dealt = deal(["x" * (i * 37 % 101) for i in range(count)], hands, most)
    assert sorted(i for piece in dealt for i in piece) == list(range(count))
    sizes = [len(piece) for piece in dealt]
    assert all(0 < size <= most for size in sizes) and max(sizes, default=0) - min(sizes, default=0) <= 1
    assert count < hands or len(dealt) % hands == 0
