import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cutwork.tune.interruption import saved_when_interrupted


def test_an_interruption_in_the_middle_of_a_line_is_told_and_saved(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks: list[Any] = []
    trainer: Any = SimpleNamespace(args=SimpleNamespace(world_size=1), add_callback=callbacks.append)
    console = Console(stderr=True)
    monkeypatch.setattr(console, "print", lambda *_: pytest.fail("a console cannot be entered twice"))
    before = signal.getsignal(signal.SIGINT)
    with saved_when_interrupted(trainer, console):
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before  # so that a second one ends at once
    assert "a checkpoint is written after this step" in capfd.readouterr().err
    control = SimpleNamespace(should_save=False)
    callbacks[0].on_step_end(None, None, control)
    assert control.should_save
    with pytest.raises(KeyboardInterrupt):
        callbacks[0].on_save(None, None, control)
