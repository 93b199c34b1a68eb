"""The disk cache: whole entries or misses, whatever happens to the disk."""

import contextlib
import errno
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from dlc.base.settings import SettingError
from dlc.runtime import cache
from dlc.runtime.cache import DiskCache

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def disk(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def entries(disk: DiskCache) -> list[Path]:
    return sorted(disk.directory.rglob("*.entry"))


def put_all(disk: DiskCache, data: dict[str, bytes]) -> None:
    for key, value in data.items():
        disk.put(key, value)


def test_round_trip(disk):
    assert disk.get("a") is None
    disk.put("a", b"one")
    disk.put("a/../b \0ü", b"")
    disk.put("a", b"two" * 100_000)
    assert disk.get("a") == b"two" * 100_000
    assert disk.get("a/../b \0ü") == b""
    other = DiskCache(disk.directory)
    assert other.get("a") == b"two" * 100_000
    stats = disk.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.stores) == (2, 2, 1, 3)
    assert 300_000 < stats.bytes < 301_000
    assert disk.directory.stat().st_mode & 0o077 == 0
    disk.clear()
    assert disk.stats().entries == 0 and disk.get("a") is None


@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: content[:10],
    lambda content: content[:-1],
    lambda content: content + b"x",
    lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    lambda content: content[:8] + b"\x63" + content[9:],
    lambda content: b"\0" * len(content),
])
def test_damage_is_a_miss_and_removed(disk, damage):
    disk.put("a", b"payload" * 10)
    disk.put("b", b"payload" * 10)
    for path in entries(disk):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match="damaged entry") as caught:
        assert [disk.get("a"), disk.get("b")] == [None, None]
    assert len(caught) == 1
    assert not entries(disk)
    disk.put("a", b"new")
    assert disk.get("a") == b"new"


def test_an_entry_under_a_wrong_name_is_not_believed(disk):
    disk.put("a", b"code of a")
    disk.put("b", b"code of b")
    a, b = entries(disk)
    b.write_bytes(a.read_bytes())
    with pytest.warns(RuntimeWarning):
        assert {disk.get("a"), disk.get("b")} in ({b"code of a", None}, {b"code of b", None})


def test_least_recently_used_go_first(tmp_path):
    disk = DiskCache(tmp_path, max_bytes=100_000)
    for number in range(9):
        disk.put(str(number), bytes(10_000))
        os.utime(disk._path(str(number)), (time.time() - 10_000 + number,) * 2)
    assert disk.get("0") is not None  # used: marked recent
    for number in range(9, 14):
        disk.put(str(number), bytes(10_000))
    assert disk.stats().bytes <= 100_000
    kept = {number for number in range(14) if disk.get(str(number)) is not None}
    assert {0, 11, 12, 13} <= kept and not kept & {1, 2, 3}
    disk.put("large", bytes(100_001))
    assert disk.get("large") is None and disk.get("13") is not None


def test_reading_marks_recent_only_now_and_then(disk):
    disk.put("a", b"x")
    path = disk._path("a")
    for age, touched in ((60, False), (3600, True)):
        before = time.time() - age
        os.utime(path, (before, before))
        disk.get("a")
        assert (path.stat().st_mtime > before + 1) == touched


def test_abandoned_files_are_removed(tmp_path):
    disk = DiskCache(tmp_path, max_bytes=100_000)
    disk.put("a", b"x")
    old, young = disk._path("a").parent / "old.tmp", disk._path("a").parent / "young.tmp"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (0, 0))
    disk.stats()
    assert not old.exists() and young.exists()


def test_read_only_directory(disk, monkeypatch):
    disk.put("a", b"x")
    folders = [disk.directory, *(path for path in disk.directory.iterdir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        if IS_ROOT:  # root writes anyway: refuse as the kernel would
            def refuse(*args, **kwargs):
                raise PermissionError(errno.EACCES, "Permission denied")

            monkeypatch.setattr(cache.private, "new_file", refuse)
            monkeypatch.setattr(os, "unlink", refuse)
            monkeypatch.setattr(os, "utime", refuse)
        with pytest.warns(RuntimeWarning, match="cannot write to its cache") as caught:
            put_all(disk, {"b": b"y", "c": b"y"})
        assert len(caught) == 1
        os_time = time.time
        monkeypatch.setattr(cache.time, "time", lambda: os_time() + 10_000)
        assert disk.get("a") == b"x" and disk.get("b") is None
        disk.clear()
    finally:
        monkeypatch.undo()
        for folder in folders:
            folder.chmod(0o700)


def test_full_disk(disk, monkeypatch):
    def full(file, content):
        file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_all", full)
        with pytest.warns(RuntimeWarning, match="No space left on device") as caught:
            put_all(disk, {"a": b"x" * 1000, "b": b"x" * 1000})
        assert len(caught) == 1
    assert [path for path in disk.directory.rglob("*") if path.is_file()] == []
    disk.put("a", b"x")  # room again
    assert disk.get("a") == b"x"


def test_the_directory_is_a_file(tmp_path):
    (tmp_path / "file").write_text("in the way")
    disk = DiskCache(tmp_path / "file")
    assert disk.get("a") is None
    with pytest.warns(RuntimeWarning, match="cannot write") as caught:
        disk.put("a", b"x")
    assert caught[0].filename == __file__  # the user's line
    assert disk.get("a") is None and disk.stats().entries == 0


def test_default_follows_the_environment(monkeypatch, tmp_path):
    for name in ("DLC_CACHE", "DLC_CACHE_DIR", "XDG_CACHE_HOME", "DLC_CACHE_MAX_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.default().directory == tmp_path / ".cache" / "dlc"
    assert cache.default().max_bytes == 1 << 30
    assert cache.default() is cache.default()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.default().directory == tmp_path / "xdg" / "dlc"
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("DLC_CACHE_MAX_BYTES", "12345")
    assert (cache.default().directory, cache.default().max_bytes) == (tmp_path / "own", 12345)
    monkeypatch.setenv("DLC_CACHE", "0")
    off = cache.default()
    off.put("a", b"x")
    assert off.get("a") is None and off.stats() == (0, 0, 0, 1, 0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("DLC_CACHE_MAX_BYTES", "much")
    with pytest.raises(ValueError, match="DLC_CACHE_MAX_BYTES='much'"):
        cache.default()


def test_home_directories(monkeypatch, tmp_path):
    for name in ("DLC_CACHE", "DLC_CACHE_DIR", "XDG_CACHE_HOME", "DLC_CACHE_MAX_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place, expected in {"~": "", "~/own": "own", "~//own": "own", " ~/own ": "own"}.items():
        monkeypatch.setenv("DLC_CACHE_DIR", place)
        assert cache.default().directory == tmp_path / expected
    user = pwd.getpwuid(os.geteuid())
    monkeypatch.setenv("DLC_CACHE_DIR", f"~{user.pw_name}/dlc")
    assert cache.default().directory == Path(user.pw_dir) / "dlc"
    monkeypatch.setenv("DLC_CACHE_DIR", "~no such user/dlc")
    with pytest.raises(SettingError, match=r"DLC_CACHE_DIR='~no such user/dlc': there is no home directory"):
        cache.default()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLC_CACHE_DIR", "here")
    assert cache.default().directory == tmp_path / "here"
    monkeypatch.chdir("/")
    assert cache.default().directory == tmp_path / "here"

    for blank in ("", "  "):
        monkeypatch.setenv("DLC_CACHE_DIR", blank)
        monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
        assert cache.default().directory == tmp_path / "xdg" / "dlc"
        for relative in ("xdg", "./xdg", "../xdg"):  # to be ignored, says the XDG specification
            monkeypatch.setenv("XDG_CACHE_HOME", relative)
            assert cache.default().directory == tmp_path / ".cache" / "dlc"
    for home in ("", "relative"):
        monkeypatch.setenv("HOME", home)
        assert cache.default().directory == Path(user.pw_dir) / ".cache" / "dlc"
    monkeypatch.delenv("HOME")
    assert cache.default().directory == Path(user.pw_dir) / ".cache" / "dlc"

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("HOME", "")
    cache._caches.cache_clear()
    assert cache.default().directory is None and cache.default().get("a") is None
    monkeypatch.setenv("DLC_CACHE_DIR", "~/x")
    with pytest.raises(SettingError, match="no home directory ~"):
        cache.default()
    cache._caches.cache_clear()


# --- what another user can have written is not used, and left as it is


def snapshot(folder: Path) -> list[tuple]:
    """Everything about a folder and what is in it that dlc must not change."""
    found = []
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found.append((str(path), status.st_mode, status.st_uid, content))
    return found


def refused(disk: DiskCache, match: str, entry: bool = False) -> None:
    """The cache (or only its entry "a") gives nothing, takes nothing, changes nothing, and says so once."""
    before = snapshot(disk.directory.resolve())
    with pytest.warns(RuntimeWarning, match=match) as caught:
        assert disk.get("a") is None
        disk.put("a", b"other code")
        assert disk.get("a") is None and disk.get("a") is None
        if not entry:
            disk.put("b", b"other code")
            disk._evict()
            disk.clear()
    assert [w.filename for w in caught] == [__file__]
    assert "does not use its cache" in str(caught[0].message)
    assert snapshot(disk.directory.resolve()) == before


PARTS = {"directory": lambda disk: disk.directory, "folder": lambda disk: disk._path("a").parent,
         "file": lambda disk: disk._path("a")}


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022, 0o1002])
@pytest.mark.parametrize("part", ["directory", "folder"])
def test_folders_that_others_can_write_to(disk, part, mode):
    disk.put("a", b"code")
    disk.put("b", b"code")
    path = PARTS[part](disk)
    path.chmod(0o755 | mode)
    fresh = DiskCache(disk.directory)
    if part == "directory":
        refused(fresh, "other users can write to .*chmod go-w")
    else:
        with pytest.warns(RuntimeWarning, match="other users can write to"):
            assert fresh.get("a") is None
            fresh.put("a", b"other code")
        assert fresh.get("b") == b"code"  # its folder is as it should be
    path.chmod(0o755)
    assert DiskCache(disk.directory).get("a") == b"code"


def test_an_entry_that_others_can_write_to(disk):
    disk.put("a", b"code")
    path = disk._path("a")
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.warns(RuntimeWarning, match="other users can write to"):
            assert DiskCache(disk.directory).get("a") is None
        assert path.stat().st_mode & 0o777 == mode
    path.chmod(0o644)
    assert DiskCache(disk.directory).get("a") == b"code"
    path.chmod(0o666)
    disk.put("a", b"new")  # it is ours: a new file takes its place
    assert disk.get("a") == b"new" and path.stat().st_mode & 0o777 == 0o600


def test_what_belongs_to_somebody_else_is_refused(disk, monkeypatch):
    """For every user that is not the owner, root too: `sudo -E` must not run what lies in a user's cache."""
    disk.put("a", b"code")
    disk.put("b", b"code")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    refused(DiskCache(disk.directory), f"belongs to user {os.getuid()}, not to user {os.getuid() + 1}")


@pytest.mark.skipif(not IS_ROOT, reason="makes files of another user")
@pytest.mark.parametrize("part", PARTS)
def test_one_foreign_part_is_enough(disk, part):
    disk.put("a", b"code")
    os.chown(PARTS[part](disk), 65534, -1)
    before = snapshot(disk.directory)
    with pytest.warns(RuntimeWarning, match="does not use its cache .*user 65534") as caught:
        assert disk.get("a") is None
        disk.put("a", b"other code")
        disk.clear()
    assert len(caught) == 1
    assert snapshot(disk.directory) == before


@pytest.mark.skipif(not IS_ROOT, reason="takes on another user")
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o755])
def test_planted_entries(mode):
    """What a user put into a shared folder is not run by another, root or not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "shared"
        folder.mkdir()
        folder.chmod(mode)
        os.chown(folder, 65534 if mode == 0o755 else 0, -1)
        planted = DiskCache(folder)
        with as_user(65534), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            place, entry = cache._place("a")
            (folder / place).mkdir()
            header = cache._HEADER.pack(cache._MAGIC, cache._VERSION, 4, cache._digest("a", b"evil"))
            (folder / place / entry).write_bytes(header + b"evil")
            assert planted.get("a") == (b"evil" if mode == 0o755 else None)  # good for themselves
        for user in (0, 65533):
            with as_user(user):
                refused(DiskCache(folder), "does not use its cache")


@contextlib.contextmanager
def as_user(uid: int):
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_links(disk, tmp_path):
    """As in ssh: a link of ours to the directory is followed, and what it leads to is looked at. No other is."""
    disk.put("a", b"code")
    (tmp_path / "link").symlink_to(disk.directory)
    linked = DiskCache(tmp_path / "link")
    assert linked.get("a") == b"code"
    linked.put("b", b"code")
    assert disk.get("b") == b"code"
    disk.directory.chmod(0o777)
    refused(linked, "other users can write to")
    disk.directory.chmod(0o700)

    path = disk._path("a")
    path.rename(tmp_path / "entry")
    path.symlink_to(tmp_path / "entry")
    refused(DiskCache(disk.directory), "is not a regular file", entry=True)
    path.unlink()
    path.parent.rename(tmp_path / "folder")
    path.parent.symlink_to(tmp_path / "folder")
    (tmp_path / "entry").rename(tmp_path / "folder" / path.name)
    with pytest.warns(RuntimeWarning, match="is a link"):
        assert DiskCache(disk.directory).get("a") is None
    assert (tmp_path / "folder" / path.name).exists()

    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.warns(RuntimeWarning, match="cannot write to its cache"):
        DiskCache(tmp_path / "dangling").put("a", b"x")


@pytest.mark.skipif(not IS_ROOT, reason="makes a link of another user")
def test_a_link_of_another_user(disk, tmp_path):
    disk.put("a", b"code")
    (tmp_path / "link").symlink_to(disk.directory)
    os.lchown(tmp_path / "link", 65534, -1)
    refused(DiskCache(tmp_path / "link"), "is a link of user 65534")


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "device"])
def test_entries_that_are_no_files(disk, kind, monkeypatch):
    disk.put("a", b"code")
    path = disk._path("a")
    path.unlink()
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(path.parent)  # the path of a socket is short
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(path.name)
        elif kind == "directory":
            path.mkdir()
        elif IS_ROOT:
            try:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: endless
            except PermissionError:
                pytest.skip("no devices in this container")
        else:
            pytest.skip("makes a device")
        refused(DiskCache(disk.directory), "is not a regular file", entry=True)


def test_an_endless_file_is_not_read(disk):
    disk.put("a", b"code")
    os.truncate(disk._path("a"), 1 << 40)
    assert disk.get("a") is None


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077, 0o007])
def test_what_is_made_is_private_under_every_umask(tmp_path, umask):
    home = tmp_path / "home" / ".cache" / "dlc"
    old = os.umask(umask)
    try:
        disk = DiskCache(home)
        inner = DiskCache("tuned", within=disk)
        inner.put("a", b"x")
        disk.put("a", b"x")
    finally:
        os.umask(old)
    for path in (tmp_path / "home").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (DiskCache(home).get("a"), inner.get("a")) == (b"x", b"x")


def test_a_umask_that_takes_everything_from_the_owner(tmp_path):
    old = os.umask(0o777)
    try:
        disk = DiskCache(tmp_path / "cache")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            disk.put("a", b"x")
            assert disk.get("a") in (None, b"x")  # root can use it
        assert len(caught) <= 1
    finally:
        os.umask(old)


def test_the_inner_cache_trusts_no_more_than_the_outer(tmp_path):
    disk = DiskCache(tmp_path / "cache")
    DiskCache("tuned", within=disk).put("a", b"x")
    disk.put("b", b"x")
    disk.directory.chmod(0o777)
    whole = DiskCache(disk.directory)
    inner = DiskCache("tuned", within=whole)
    with pytest.warns(RuntimeWarning, match="other users can write") as caught:
        assert inner.get("a") is None and whole.get("b") is None
    assert len(caught) == 1


HAMMER = """
import random, sys, warnings
from dlc.runtime.cache import DiskCache
warnings.simplefilter("error")
disk, seed = DiskCache(sys.argv[1], 300_000), int(sys.argv[2])
choose, hits = random.Random(seed), 0
def data(key):
    return (key * 5000).encode()
for step in range(400):
    key = f"key{choose.randrange(40)}"
    if choose.random() < 0.5:
        disk.put(key, data(key)[: 1000 + 1000 * choose.randrange(15)])
    else:
        got = disk.get(key)
        if got is not None:
            hits += 1
            assert data(key).startswith(got) and len(got) % 1000 == 0, key
    if step % 97 == seed:
        disk.clear()
print(hits)
"""


def test_many_processes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [
        subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path), str(seed)], env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(5)
    ]
    results = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0] * 5, results
    assert sum(int(out) for out, _ in results) > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disk = DiskCache(tmp_path, 300_000)
        assert disk.stats().bytes <= 300_000 + 5 * 300_000 // 16 + 100_000
    assert not list(tmp_path.rglob("*.tmp"))
