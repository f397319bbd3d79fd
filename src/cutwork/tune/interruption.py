"""Ctrl-C while a model trains: the first ends it after its step, with a checkpoint; the second ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_TOLD = b"\ninterrupted: a checkpoint is written after this step; Ctrl-C once more ends at once\n"


class _SaveFirst(TrainerCallback):
    """Saves after the step in which `asked` is set, and then interrupts."""

    asked = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save |= self.asked

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def saved_when_interrupted(trainer: Trainer, console: Console) -> Iterator[None]:
    """Let the trainer write a checkpoint when it is interrupted inside the block, which then ends by KeyboardInterrupt.

    Does nothing where several processes train, which would have to be interrupted in the same step, and outside the
    main thread, which alone may handle signals.
    """
    if trainer.args.world_size > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    callback = _SaveFirst()
    trainer.add_callback(callback)

    def interrupted(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        callback.asked = True
        if not console.quiet:
            with suppress(OSError):  # nobody may be there to read it
                os.write(2, _TOLD)  # the console may be in the middle of a line, which Python does not let us enter

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
