"""Folders and files of our own that nobody else can change, as ssh asks of keys: for what is going to be executed.

Each is opened first, without following links, and then looked at through its descriptor, so that it cannot be
exchanged in between; what lies in a folder is reached through the folder's descriptor. Nothing here changes the owner
or the mode of what it finds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe without a writer must not be waited for


class Untrusted(OSError):
    """Something that another user made, or can change."""


@contextlib.contextmanager
def folder(path: str, within: int | None = None, make: bool = False) -> Iterator[int]:
    """A descriptor of a private folder, by its path or by its name in the folder `within`; raises Untrusted, OSError.

    A path may be a link that we made (or root), as in ssh: what it leads to is looked at. A name may not. With `make`
    the folder is made if it is missing, and so are those above it, all of them for us alone.
    """
    if make:
        _make(path, within)
    link = os.stat(path, dir_fd=within, follow_symlinks=False)
    if stat.S_ISLNK(link.st_mode) and (within is not None or link.st_uid not in (0, os.geteuid())):
        raise Untrusted(f"{path} is a link of user {link.st_uid}")
    handle = os.open(path, _FOLDER if within is None else _FOLDER | os.O_NOFOLLOW, dir_fd=within)
    try:
        _check(path, os.fstat(handle))
        yield handle
    finally:
        os.close(handle)


def open_file(name: str, within: int) -> int:
    """A descriptor, to be read, of a private file in the folder `within`. Raises Untrusted, OSError."""
    try:
        handle = os.open(name, os.O_RDONLY | _FILE, dir_fd=within)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link (EMLINK on the BSDs), a socket
            raise Untrusted(f"{name} is not a regular file") from None
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Untrusted(f"{name} is not a regular file")
        _check(name, status)
    except BaseException:
        os.close(handle)
        raise
    return handle


def new_file(name: str, within: int) -> int:
    """A descriptor, to be written, of a new file in the folder `within`, for us alone whatever the umask is."""
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=within)
    os.fchmod(handle, 0o600)
    return handle


def is_ours(name: str, within: int) -> bool:
    """Whether a name in the folder `within` is a regular file of ours, which may be replaced or removed."""
    status = os.stat(name, dir_fd=within, follow_symlinks=False)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _make(path: str, within: int | None) -> None:
    # Not os.makedirs: it makes the folders above with the mode that the umask leaves.
    missing = [path]
    while within is None and not os.path.lexists(missing[-1]):
        missing.append(os.path.dirname(missing[-1]))
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, 0o700, dir_fd=within)


def _check(path: str, status: os.stat_result) -> None:
    user, mode = os.geteuid(), stat.S_IMODE(status.st_mode)
    if status.st_uid != user:
        raise Untrusted(f"{path} belongs to user {status.st_uid}, not to user {user}")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Untrusted(f"other users can write to {path} (mode {mode:o}): chmod go-w makes it private")
