"""The disk cache: whole entries or misses, whatever happens to the disk."""

import errno
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from dlc.runtime import cache
from dlc.runtime.cache import DiskCache


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


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_read_only_directory(disk, monkeypatch):
    disk.put("a", b"x")
    folders = [disk.directory, *(path for path in disk.directory.iterdir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        if os.geteuid() == 0:  # root writes anyway: refuse as the kernel would
            def refuse(*args, **kwargs):
                raise PermissionError(errno.EACCES, "Permission denied")

            monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
            monkeypatch.setattr(Path, "unlink", refuse)
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
