"""`cutwork` in a child of this process, where all packages are there already, killed at a time or an operation."""

import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

# So that not every child imports them.
import accelerate
import datasets
import matplotlib.pyplot
import torch
import transformers

import cutwork.compress.compress
import cutwork.measure.compare
import cutwork.pack.pack
import cutwork.prune.prune
import cutwork.quantize.quantize
import cutwork.run.run
import cutwork.serve.batch
import cutwork.tune.tune
from cutwork.cli import main
from tests.compress.prices_of_bytes import measure_once, price_by_bytes

_ = accelerate, datasets, matplotlib, transformers, cutwork
torch.set_num_threads(1)  # a child would wait for threads that it has not
KILLED = -signal.SIGKILL
_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_OPERATIONS |= {"os.utime", "os.chmod", "shutil.copyfile", "shutil.rmtree", "os.scandir"}
_WRITES = os.O_WRONLY | os.O_RDWR


class _Watch:
    """Counts operations on what is in a folder, and kills its process before one of them."""

    def __init__(self, folder: Path, before: int | None) -> None:
        self.folder, self.before, self.count = str(folder), before, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _OPERATIONS or not any(str(given).startswith(self.folder) for given in arguments[:2]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
            return
        if self.count == self.before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def start(
    arguments: list[str], log: Path, *, within: Path, before: int | None = None, counted: Path | None = None
) -> int:
    """Call `cutwork` with arguments in a child, and return its process id.

    log: what it writes. before: it kills itself before its operation of this number on files of the folder `within`,
    whose count is written to `counted`.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        measure_once(setattr)
        price_by_bytes(setattr)  # so that two calls of compress choose alike
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        watch = _Watch(within, before)
        sys.addaudithook(watch)
        sys.argv = ["cutwork", *arguments]
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if counted:
            counted.write_text(str(watch.count))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
