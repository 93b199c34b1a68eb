"""Object code on disk, shared by all processes of a user.

One file per entry, named by the hash of its key. A file is written aside and renamed, so readers see a whole entry or
none; a header with a checksum catches what the rename cannot (a torn disk, a stray edit). Whatever goes wrong with the
disk, the answer is a miss and one warning: a compiler that cannot cache still compiles.

What lies here is executed, and anybody can make a checksum. So entries are read and written only where nobody else can
have been: regular files and folders of our own user that no other user can write to (`private.py`, SECURITY.md).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dlc.base import settings
from dlc.base.errors import warn
from dlc.runtime import private
from dlc.runtime.private import Untrusted

DEFAULT_MAX_BYTES = 1 << 30
TUNED_MAX_BYTES = 16 << 20

_MAGIC = b"dlcCACHE"
_VERSION = 1
_HEADER = struct.Struct("<8sIQ32s")  # magic, version, payload bytes, SHA-256 of key and payload
_SUFFIX = ".entry"
_TOUCH_SECONDS = 600  # an entry used again is marked recent at most this often
_ABANDONED_SECONDS = 3600  # a half-written file this old belongs to a process that died


class CacheStats(NamedTuple):
    """Entries and bytes on disk; hits, misses and stored entries of this process."""

    entries: int
    bytes: int
    hits: int
    misses: int
    stores: int


class _File(NamedTuple):
    """An entry as it lies on disk, in the order of eviction."""

    modified: float
    bytes: int
    folder: str
    name: str


class DiskCache:
    """A directory of entries, bounded by `max_bytes`; the least recently used go first.

    `directory=None` is a cache that is turned off: it never has anything. With `within`, `directory` is the name of a
    folder in the directory of that cache. No method raises for reasons of the disk.
    """

    def __init__(self, directory: str | os.PathLike | None, max_bytes: int = DEFAULT_MAX_BYTES,
                 within: DiskCache | None = None):
        root = Path() if within is None else within.directory
        self.directory = None if directory is None or root is None else Path(os.path.abspath(root / directory))
        self.max_bytes = max_bytes
        self._within = within
        self._hits = self._misses = self._stores = 0
        # Sizing the directory means a scan, so it is done on the first put and then once per sixteenth of the limit
        # written. Other processes do the same, so the limit may be passed by their share for a moment.
        self._unscanned_bytes = max_bytes
        self._warned: set[str] = set() if within is None else within._warned

    def get(self, key: str) -> bytes | None:
        """The data stored under `key`, or None."""
        data = None if self.directory is None else self._read(key)
        if data is None:
            self._misses += 1
        else:
            self._hits += 1
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, replacing what was there."""
        size = _HEADER.size + len(data)
        if self.directory is None or size > self.max_bytes:
            return
        folder, name = _place(key)
        try:
            with self._open(make=True) as root, private.folder(folder, root, make=True) as where:
                _check_replaceable(name, where)
                _write_aside(name, where, _HEADER.pack(_MAGIC, _VERSION, len(data), _digest(key, data)), data)
        except OSError as error:
            self._report(error, "write to")
            return
        self._stores += 1
        self._unscanned_bytes += size
        if self._unscanned_bytes > self.max_bytes // 16:
            self._evict()

    def stats(self) -> CacheStats:
        """What is on disk now, and what this process did."""
        files = self._files()
        return CacheStats(len(files), sum(file.bytes for file in files), self._hits, self._misses, self._stores)

    def clear(self) -> None:
        """Remove every entry."""
        files = self._files()
        if files:
            self._remove(files)

    def _path(self, key: str) -> Path:
        return self.directory.joinpath(*_place(key))

    @contextlib.contextmanager
    def _open(self, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory. Raises OSError; Untrusted where another user could have changed it."""
        if self._within is None:
            with private.folder(str(self.directory), make=make) as root:
                yield root
        else:
            with self._within._open(make) as whole, private.folder(self.directory.name, whole, make) as root:
                yield root

    def _read(self, key: str) -> bytes | None:
        folder, name = _place(key)
        try:
            with self._open() as root, private.folder(folder, root) as where:
                return self._entry(key, name, where)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._report(error, "read")
            return None

    def _entry(self, key: str, name: str, where: int) -> bytes | None:
        with open(private.open_file(name, where), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_size > _HEADER.size + self.max_bytes:
                return None  # never one of ours, or of a higher limit: not to be read into memory
            data = _payload(key, file.readall())
            if data is None:
                _unlink(name, where)
                self._warn("corrupt", f"dlc found a damaged entry in its cache and removed it: {self._path(key)}")
            elif time.time() - status.st_mtime > _TOUCH_SECONDS:
                _touch(file.fileno())
            return data

    def _files(self) -> list[_File]:
        """Every entry; drops abandoned half-written files on the way."""
        files: list[_File] = []
        if self.directory is None:
            return files
        try:
            with self._open() as root:
                for folder in [name for name in os.listdir(root) if len(name) == 2]:
                    with contextlib.suppress(OSError), private.folder(folder, root) as where:
                        files += _entries(folder, where)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self._report(error, "read")
        return files

    def _evict(self) -> None:
        """Remove the least recently used entries until a little room is free, so that the next put need not scan."""
        self._unscanned_bytes = 0
        files = self._files()
        total = sum(file.bytes for file in files)
        if total <= self.max_bytes:
            return
        going = []
        for file in sorted(files):
            if total <= self.max_bytes * 7 // 8:
                break
            going.append(file)
            total -= file.bytes
        self._remove(going)

    def _remove(self, files: list[_File]) -> None:
        by_folder = sorted(files, key=lambda file: file.folder)
        with contextlib.suppress(OSError), self._open() as root:
            for folder, group in itertools.groupby(by_folder, key=lambda file: file.folder):
                with contextlib.suppress(OSError), private.folder(folder, root) as where:
                    for file in group:
                        _unlink(file.name, where)

    def _report(self, error: OSError, what: str) -> None:
        if isinstance(error, Untrusted):
            reason = f"{error}. What lies there would be executed; DLC_CACHE_DIR names another folder"
            self._warn("untrusted", f"dlc does not use its cache {self.directory}, continuing without: {reason}")
        else:
            self._warn("disk", f"dlc cannot {what} its cache {self.directory} ({error}); continuing without")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(message)


def default() -> DiskCache:
    """The user's cache, as the environment says now.

    `DLC_CACHE_DIR` (else `$XDG_CACHE_HOME/dlc`, else `~/.cache/dlc`), `DLC_CACHE_MAX_BYTES`; `DLC_CACHE=0` is off.
    Raises SettingError where one of them has no such value.
    """
    return _caches(*map(settings.text, _VARIABLES))[0]


def tuned() -> DiskCache:
    """What was measured about kernels (`runtime/tuning/tune.py`): a small cache inside the user's."""
    return _caches(*map(settings.text, _VARIABLES))[1]


_VARIABLES = ("DLC_CACHE", "DLC_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "DLC_CACHE_MAX_BYTES")


@functools.lru_cache(16)
def _caches(*values: str) -> tuple[DiskCache, DiskCache]:
    """The user's cache and what is inside it, while the variables have these values."""
    limit = settings.whole_number("DLC_CACHE_MAX_BYTES", 0, "a whole number of bytes")
    place = settings.folder("DLC_CACHE_DIR")
    if place is None and (home := settings.cache_home()) is not None:
        place = home / "dlc"
    if not settings.switch("DLC_CACHE", True):
        place = None
    whole = DiskCache(place, DEFAULT_MAX_BYTES if limit is None else limit)
    return whole, DiskCache("tuned", TUNED_MAX_BYTES, whole)


def _place(key: str) -> tuple[str, str]:
    """The folder and the name of an entry."""
    name = hashlib.sha256(key.encode()).hexdigest()
    return name[:2], name[2:] + _SUFFIX


def _digest(key: str, data: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(b"\0")
    digest.update(data)
    return digest.digest()


def _payload(key: str, content: bytes) -> bytes | None:
    """The data of a whole and undamaged entry for `key`, else None."""
    if len(content) < _HEADER.size:
        return None
    magic, version, size, digest = _HEADER.unpack_from(content)
    data = content[_HEADER.size :]
    whole = magic == _MAGIC and version == _VERSION and size == len(data)
    return data if whole and digest == _digest(key, data) else None


def _check_replaceable(name: str, where: int) -> None:
    """Raise Untrusted where an entry's name is taken by something that we must leave alone."""
    with contextlib.suppress(FileNotFoundError):
        if not private.is_ours(name, where):
            raise Untrusted(f"{name} is not a regular file of user {os.geteuid()}")


def _write_aside(name: str, where: int, header: bytes, data: bytes) -> None:
    """Write a file beside `name` and rename it there. Not synced: after a crash the checksum tells."""
    aside = f"{os.urandom(8).hex()}.tmp"
    try:
        with open(private.new_file(aside, where), "wb", buffering=0) as file:
            _write_all(file, header + data)
        os.replace(aside, name, src_dir_fd=where, dst_dir_fd=where)
    except BaseException:
        _unlink(aside, where)
        raise


def _write_all(file, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _entries(folder: str, where: int) -> Iterator[_File]:
    """The entries of one folder, for `_files`."""
    for name in os.listdir(where):
        try:
            status = os.stat(name, dir_fd=where, follow_symlinks=False)
        except OSError:
            continue  # another process removed it
        if not stat.S_ISREG(status.st_mode):
            continue
        if name.endswith(_SUFFIX):
            yield _File(status.st_mtime, status.st_size, folder, name)
        elif name.endswith(".tmp") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
            _unlink(name, where)


def _touch(handle: int) -> None:
    with contextlib.suppress(OSError):  # read-only: it only loses its place in the order of eviction
        os.utime(handle)


def _unlink(name: str, where: int) -> None:
    with contextlib.suppress(OSError):  # gone already, or read-only
        if private.is_ours(name, where):
            os.unlink(name, dir_fd=where)
