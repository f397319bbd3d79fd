"""Waiting for a forked child."""

import os
import signal
import time


def ended(child: int, seconds: float) -> int:
    """The exit status of a child, or minus the signal that ended it: it is killed after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
