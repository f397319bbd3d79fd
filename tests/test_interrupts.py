"""Ctrl-C while modules are being imported, and in what asyncio runs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

WHILE_COMMANDS_ARE_IMPORTED = """
import sys
class Finder:
    def find_spec(name, *_):
        if name == "cutwork.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder)
from cutwork.__main__ import main
main()
"""
WHILE_A_MODULE_IS_IMPORTED = """
import os, signal, sys, time
from cutwork.interrupts import careful_interrupts
careful_interrupts()
sys.path.insert(0, sys.argv[1])
try:
    import slow
    time.sleep(30)
except KeyboardInterrupt:
    print("raised", "slow" in sys.modules)
"""
SLOW = """
import os, signal, time
for _ in range(3):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
print("imported")
"""
IN_ASYNCIO = """
import asyncio, os, signal
from cutwork.interrupts import _interrupt, careful_interrupts, run_async
async def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        print("cancelled")
        raise
careful_interrupts()
try:
    run_async(main())
except KeyboardInterrupt:
    print("raised", signal.getsignal(signal.SIGINT) is _interrupt)
"""
WHERE_ANOTHER_DECIDES = """
import signal
from cutwork.interrupts import careful_interrupts
signal.signal(signal.SIGINT, signal.SIG_IGN)
careful_interrupts()
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""


def child(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_it_is_said_in_a_word_while_commands_are_imported() -> None:
    done = child(WHILE_COMMANDS_ARE_IMPORTED)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted\n")


def test_it_waits_until_a_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    done = child(WHILE_A_MODULE_IS_IMPORTED, tmp_path)
    assert (done.stdout, done.stderr) == ("imported\nraised True\n", "")


def test_asyncio_cancels_what_it_runs() -> None:
    done = child(IN_ASYNCIO)
    assert (done.stdout, done.stderr) == ("cancelled\nraised True\n", "")


def test_who_decided_otherwise_is_left_alone() -> None:
    assert child(WHERE_ANOTHER_DECIDES).stdout == "True\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "cutwork", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("cutwork ")
