"""What files can do on this system: on Windows they cannot be locked this way, and directories cannot be opened."""

import errno
import os
import sys

POSIX = sys.platform != "win32"


def flock(file: int, *, wait: bool = False) -> None:
    """Lock an open file or directory until it is closed, or its process ends, in whatever container it runs.

    Raises BlockingIOError if another process holds it and this one does not `wait`, OSError where there are no locks.
    """
    if not POSIX:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
