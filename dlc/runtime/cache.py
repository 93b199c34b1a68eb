"""Object code on disk, shared by all processes of a user.

One file per entry, named by the hash of its key. A file is written aside and renamed, so readers see a whole entry or
none; a header with a checksum catches what the rename cannot (a torn disk, a stray edit). Whatever goes wrong with the
disk, the answer is a miss and one warning: a compiler that cannot cache still compiles.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from dlc.ir.errors import warn

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


class DiskCache:
    """A directory of entries, bounded by `max_bytes`; the least recently used go first.

    `directory=None` is a cache that is turned off: it never has anything. No method raises for reasons of the disk.
    """

    def __init__(self, directory: str | os.PathLike | None, max_bytes: int = DEFAULT_MAX_BYTES):
        self.directory = None if directory is None else Path(directory)
        self.max_bytes = max_bytes
        self._hits = self._misses = self._stores = 0
        # Sizing the directory means a scan, so it is done on the first put and then once per sixteenth of the limit
        # written. Other processes do the same, so the limit may be passed by their share for a moment.
        self._unscanned_bytes = max_bytes
        self._warned: set[str] = set()

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
        path = self._path(key)
        try:
            # Private, since what lies here is executed. (With `parents`, the mode is for the last folder only.)
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _write_aside(path, _HEADER.pack(_MAGIC, _VERSION, len(data), _digest(key, data)), data)
        except OSError as error:
            self._warn("write", f"dlc cannot write to its cache {self.directory} ({error}); continuing without")
            return
        self._stores += 1
        self._unscanned_bytes += size
        if self._unscanned_bytes > self.max_bytes // 16:
            self._evict()

    def stats(self) -> CacheStats:
        """What is on disk now, and what this process did."""
        files = self._files()
        return CacheStats(len(files), sum(size for _, size, _ in files), self._hits, self._misses, self._stores)

    def clear(self) -> None:
        """Remove every entry."""
        for _, _, path in self._files():
            _remove(path)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.directory / name[:2] / (name[2:] + _SUFFIX)

    def _read(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            with open(path, "rb", buffering=0) as file:
                modified = os.fstat(file.fileno()).st_mtime
                content = file.readall()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn("read", f"dlc cannot read its cache {self.directory} ({error}); continuing without")
            return None
        data = _payload(key, content)
        if data is None:
            self._warn("corrupt", f"dlc found a damaged entry in its cache and removed it: {path}")
            _remove(path)
            return None
        if time.time() - modified > _TOUCH_SECONDS:
            _touch(path)
        return data

    def _files(self) -> list[tuple[float, int, Path]]:
        """(modified, bytes, path) of every entry; drops abandoned half-written files on the way."""
        files = []
        for folder in _scan(self.directory):
            if len(folder.name) != 2 or not folder.is_dir():
                continue
            for entry in _scan(folder.path):
                try:
                    status = entry.stat()
                except OSError:
                    continue  # another process removed it
                if entry.name.endswith(_SUFFIX):
                    files.append((status.st_mtime, status.st_size, Path(entry.path)))
                elif entry.name.endswith(".tmp") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    _remove(Path(entry.path))
        return files

    def _evict(self) -> None:
        """Remove the least recently used entries until a little room is free, so that the next put need not scan."""
        self._unscanned_bytes = 0
        files = self._files()
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(files):
            if total <= self.max_bytes * 7 // 8:
                break
            _remove(path)
            total -= size

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warn(message)


def default() -> DiskCache:
    """The user's cache, as the environment says now.

    `DLC_CACHE_DIR` (else `$XDG_CACHE_HOME/dlc`, else `~/.cache/dlc`), `DLC_CACHE_MAX_BYTES`; `DLC_CACHE=0` is off.
    """
    settings = tuple(os.environ.get(name, "") for name in ("DLC_CACHE", *_PLACES, "DLC_CACHE_MAX_BYTES"))
    if settings not in _defaults:
        _defaults.setdefault(settings, _from_environment())
    return _defaults[settings]


def tuned() -> DiskCache:
    """What was measured about kernels (`runtime/tuning.py`): a small cache inside the user's."""
    whole = default()
    if whole not in _inner:
        place = None if whole.directory is None else whole.directory / "tuned"
        _inner.setdefault(whole, DiskCache(place, TUNED_MAX_BYTES))
    return _inner[whole]


_PLACES = ("DLC_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
_defaults: dict[tuple[str, ...], DiskCache] = {}
_inner: dict[DiskCache, DiskCache] = {}


def _from_environment() -> DiskCache:
    limit = os.environ.get("DLC_CACHE_MAX_BYTES", "").strip()
    if limit and not limit.isdigit():
        raise ValueError(f"DLC_CACHE_MAX_BYTES={limit!r} is not a whole number of bytes")
    off = os.environ.get("DLC_CACHE", "").strip().lower() in ("0", "off", "false", "no")
    return DiskCache(None if off else _default_directory(), int(limit) if limit else DEFAULT_MAX_BYTES)


def _default_directory() -> Path | None:
    if place := os.environ.get("DLC_CACHE_DIR"):
        return Path(place)
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "dlc"
    try:
        return Path.home() / ".cache" / "dlc"
    except RuntimeError:  # no home directory: nowhere to cache
        return None


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


def _write_aside(path: Path, header: bytes, data: bytes) -> None:
    """Write a file next to `path` and rename it there. Not synced: after a crash the checksum tells."""
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with open(handle, "wb", buffering=0) as file:
            _write_all(file, header + data)
        os.replace(aside, path)
    except BaseException:
        _remove(Path(aside))
        raise


def _write_all(file, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        pass  # read-only, or gone: it only loses its place in the order of eviction


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError:
        pass  # gone already, or read-only


def _scan(directory: str | os.PathLike | None) -> list[os.DirEntry]:
    if directory is None:
        return []
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []
