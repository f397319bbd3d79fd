"""What is done to the commands, and what must not be afterwards."""

import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.child import ended

from .commands import STAGED, Command, agree, contents_of, output_name
from .process import KILLED, start

_MOST = 600.0  # seconds of a call that nothing interrupts


class WrongError(AssertionError):
    """What must not be."""


class Trial:
    """A command with a fresh folder for its output; `done` counts what was done to it."""

    def __init__(self, work: Path, folder: Path, command: Command, rng: random.Random) -> None:
        self.command, self.rng, self.folder = command, rng, folder
        self.name = command.arguments[0]
        self.output = folder / output_name(self.name)
        self.log = work / "log"
        self.done: Counter[str] = Counter()
        self._old: dict[str, str] | None = None
        self._more: tuple[str, ...] = ()
        self._other = work / "other"

    def kills(self) -> None:
        """Killed once or more, then called again to its end."""
        if self.name not in STAGED and self.rng.random() < 0.3:
            self._give_old_output()
        for _ in range(self.rng.choice((1, 1, 2, 3, 5))):
            answers = self._answers()
            if self.rng.random() < 0.5:
                child = self._start(before=self.rng.randrange(self.command.operations))
                status = ended(child, _MOST)
            else:
                status = ended(self._start(), self.rng.uniform(0, 1.1 * self.command.seconds))
            self.done[f"{self.name} {'killed' if status == KILLED else 'ended before its kill'}"] += 1
            self._check_parts()
            if status not in (0, KILLED):
                self._check_there(status)
                break
            if not self.output.exists() and self._answers() < answers:
                raise WrongError(f"{answers} answers before a call that was killed, {self._answers()} after it")
            if status == 0:
                break
        self._heal()

    def pair(self) -> None:
        """Two at once, of which one may be killed; then, if neither has finished, once more."""
        second = self.log.with_name("log of the second")
        one, begins = self._start(), self.rng.uniform(0, 0.5 * self.command.seconds)
        early = ended_within(one, begins)
        other = start(self.command.call(self.output), second, within=self.folder)
        killed = early is None and self.rng.random() < 0.5
        first = (
            early if early is not None else ended(one, self.rng.uniform(0, self.command.seconds) if killed else _MOST)
        )
        statuses = [first, ended(other, _MOST)]
        self.done[f"{self.name} twice at once, {'one killed' if KILLED in statuses else 'both ended'}"] += 1
        for status, log in zip(statuses, (self.log, second), strict=True):
            if status not in (0, KILLED):
                self._check_refusal(status, log.read_text(errors="replace"))
        if not {0, KILLED} & set(statuses):
            raise WrongError(f"{self.name} twice at once: neither finished: {self._said()}")
        self._check_parts()
        self._heal(again=statuses != [0, 0])  # what a killed writer left is removed by the next one

    def full_disk(self) -> None:
        """On a disk that has too little room, then on one that has enough."""
        room = int(self.rng.uniform(0, 1.5) * self.command.bytes) + 8192
        with disk(self.folder, room):
            status = ended(self._start(), _MOST)
            self.done[f"{self.name} {'with just enough room' if status == 0 else 'on a full disk'}"] += 1
            if status != 0:
                self._check_refusal(status, self._said())
            self._check_parts()
            answers = self._answers()
            subprocess.run(["mount", "-o", f"remount,size={1 << 30}", self.folder], check=True)
            if self._answers() < answers:
                raise WrongError("answers were lost")
            self._heal(again=status != 0)

    def _start(self, before: int | None = None) -> int:
        return start(self.command.call(self.output, *self._more), self.log, within=self.folder, before=before)

    def _said(self) -> str:
        return self.log.read_text(errors="replace")

    def _give_old_output(self) -> None:
        self._more = ("--overwrite",)
        if self.name == "batch":
            self.output.write_text("")
        else:
            shutil.copytree(self._other, self.output)
        self._old = contents_of(self.output)

    def _check_parts(self) -> None:
        """Whatever is there is whole, or what was there before."""
        assert self.command.contents
        for part, wanted in self.command.contents.items():
            path = self.output / part
            if part == "." and (self.name in STAGED or not path.exists()):
                if self._old is not None:
                    raise WrongError(f"{self.name}: the old output is gone")
                continue
            if path.exists():
                found = contents_of(path)
                if not agree(found, wanted) and found != self._old:
                    raise WrongError(f"{self.name}: {part} is neither whole nor old: {_difference(found, wanted)}")

    def _heal(self, again: bool = True) -> None:
        """Call it again, and compare what there is with what an undisturbed call leaves."""
        assert self.command.contents
        if again:
            status = ended(self._start(), _MOST)
            if status != 0:
                self._check_there(status)
        found = contents_of(self.output)
        if not agree(found, self.command.contents["."]):
            raise WrongError(f"{self.name}: the output differs: {_difference(found, self.command.contents['.'])}")
        left = set(os.listdir(self.folder)) - {self.output.name}
        if left:
            raise WrongError(f"{self.name}: left behind: {', '.join(left)}")

    def _check_there(self, status: int) -> None:
        """A call was killed between its last step and its end: the next one may say that the output is there."""
        if status != 1 or not re.search("already exists|exists already", self._said()):
            raise WrongError(f"{self.name} after a kill ended with {status}: {self._said()}")

    def _check_refusal(self, status: int, said: str) -> None:
        last = said.strip().splitlines()[-1:]
        if status != 1 or "Traceback" in said or not last or not last[0].startswith("error: "):
            raise WrongError(f"{self.name} ended with {status} and no sentence: {said}")

    def _answers(self) -> int:
        """Whole lines of a batch's answers so far."""
        journal = self.output.with_name(f".{self.output.name}.partial")
        return journal.read_bytes().count(b"\n") if self.name == "batch" and journal.is_file() else 0


def ended_within(child: int, seconds: float) -> int | None:
    """The status of a child that ends within so many seconds; None if it goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


@contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes at a folder; needs the rights to mount one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def _difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    other = [name for name, digest in wanted.items() if digest and found.get(name, digest) != digest]
    return f"missing {sorted(wanted.keys() - found)}, besides {sorted(found.keys() - wanted)}, other contents {other}"
