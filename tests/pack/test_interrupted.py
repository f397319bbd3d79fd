"""What is left of `cutwork pack` when it cannot finish: nothing."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .models import plain_tensors, write_checkpoint

MAIN = "from cutwork.cli import main; main()"
INTERRUPT = """
import os, signal
from cutwork.pack.pack import PackWriter
add, names = PackWriter.add, []
def interrupted(self, name, weight):
    names.append(name)
    if len(names) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    add(self, name, weight)
PackWriter.add = interrupted
"""


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize(
    ("code", "limit", "status", "sentence"),
    [(MAIN, limit_files, 1, "error: file too large"), (INTERRUPT + MAIN, None, 130, "")],
    ids=["no room", "Ctrl-C"],
)
def test_nothing_is_left(code, limit, status, sentence, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", plain_tensors())
    output = tmp_path / "out"
    output.mkdir()
    command = [sys.executable, "-c", code, "pack", str(source), str(output / "packed")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert (done.returncode, list(output.iterdir())) == (status, []), done.stderr
    assert sentence in done.stderr and "Traceback" not in done.stderr
