"""Opening files that somebody else may have made."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, to be read. Raises OSError for all else: a pipe may never end, and a path need not be one."""
    try:
        # not to wait for the writer of a pipe, nor to take a terminal for one's own
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # a null character, or half a surrogate pair
        raise OSError(errno.EINVAL, f"not a path: {error}") from None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
