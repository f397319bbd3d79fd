"""Small files, written whole or not at all."""

import errno
import os
from pathlib import Path

from cutwork.store.partial import partial, sync_entry


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step; an interrupted write, even by a loss of power, leaves the old one."""
    with partial(path) as file:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        sync_entry(file)
        file.replace(path)
        sync_entry(path.parent)


def disk_full(error: BaseException) -> bool:
    """Whether an exception, also one that wraps an operating system error as text, says that the disk is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, Exception) and os.strerror(errno.ENOSPC) in str(error)
