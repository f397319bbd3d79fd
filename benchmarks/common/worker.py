"""An engine in its own process that dies with this one and stands still while it is not asked."""

import ctypes
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None)
_PATIENCE = 300  # seconds for one answer
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class WorkerError(Exception):
    """A worker ended or never began; the message is the last line it left."""


class Worker:
    """A started worker script. Stopped between requests, so that threads spinning for work disturb nobody."""

    def __init__(self, python: str, script: Path, spec: dict[str, Any], log: Path, environment: dict[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, str(script), json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # there are no threads here
            )
        try:
            self.about = self._read()
        except BaseException:
            self.kill()
            raise
        self._process.send_signal(signal.SIGSTOP)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer. Raises WorkerError."""
        assert self._process.stdin
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            self.kill()
            raise WorkerError(f"no answer within {_PATIENCE} seconds; {self._log} is its log")
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            said = [text.strip() for text in self._log.read_text(errors="replace").splitlines() if text.strip()]
            raise WorkerError(f"{said[-1] if said else 'nothing said'} (exit status {status})")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _die_with_parent() -> None:
    _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
