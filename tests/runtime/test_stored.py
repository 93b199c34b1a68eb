"""Entries of the disk cache with a right checksum and a wrong content: compiled again, never an error.

(Damaged machine code is another matter: LLVM's linker may abort. Only files of our own are read, see SECURITY.md.)
"""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import dlc
from dlc.codegen.schedule import tuned_text
from dlc.frontend.core import eager
from dlc.runtime import cache
from dlc.runtime.cache import DiskCache
from dlc.runtime.cpu import host, llvm, stored, threads
from dlc.runtime.cuda import stored as cuda_stored
from dlc.runtime.tuning.search import Winner


@pytest.fixture
def disk(tmp_path, monkeypatch) -> DiskCache:
    monkeypatch.setenv("DLC_CACHE", "1")
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("DLC_INTERPRET", raising=False)
    monkeypatch.setattr(eager, "_executables", OrderedDict())
    return cache.default()


DEEP = b"[" * 100_000
HEADS = [
    b"", b"null", b"{}", b"[]", b"1", b'"text"', b"[null,null,null,null]", b"[1,2,3,4]", b"[[],[],[0],[]]", DEEP,
    b"[[-1],[80],[0],[]]", b"[[-1],[80],[0],[1e999]]", b"[[-1],[80],[0],[NaN]]", b"[[-1],[80],[0],[true]]",
    b'[["0"],[80],[0],[5]]', b"[[-1],[80],0,[5]]", b"[[-1],[80,4],[0],[5]]", b"[[-2],[80],[0],[5]]",
    b"[[-1],[-80],[0],[5]]", b"[[-1],[80],[-1],[5]]", b"[[-1],[80],[0],[-5]]", b"[[-1],[80],[0],[99999999]]",
    b"[[-1],[80],[0]]", b"[[-1],[80],[0],[5],[]]", b"[[-1],[80],[0, 0],[5]]", b"\xff\xfe", b"[[-1],[80],[0],[5]",
]  # fmt: skip


@pytest.mark.parametrize("head", HEADS, ids=lambda h: repr(h[:24]))
def test_a_damaged_head_is_compiled_again(disk, head):
    x = dlc.asarray(np.arange(20, dtype=np.float32))
    graph = dlc.jit(lambda x: x * 3 + 1).graph(x)
    eager.compiled(graph)
    eager._executables.clear()
    entry = stored.program_key(graph, (), host.detect())
    _, _, code = disk.get(entry).partition(b"\n")
    for rest in (b"", b"\n", b"\n" + code, b"\n" + code[:-7], b"\n" + bytes(len(code))):
        disk.put(entry, head + rest)
        assert stored.load(entry) is None
    np.testing.assert_array_equal(dlc.jit(lambda x: x * 3 + 1)(x).numpy(), np.arange(20) * 3 + 1)


def test_a_sound_entry_is_used(disk):
    x = dlc.asarray(np.arange(20, dtype=np.float32))
    graph = dlc.jit(lambda x: x * 5 + 1).graph(x)
    eager.compiled(graph)
    key = stored.program_key(graph, (), host.detect())
    assert stored.load(key).frame.output_bytes == (80,)
    head, _, code = disk.get(key).partition(b"\n")
    for damaged in (code[:100], b"\x7fELF" + bytes(100), code[:-1]):
        head = json.dumps([[-1], [80], [0], [len(damaged)]]).encode()
        disk.put(key, head + b"\n" + damaged)
        assert stored.load(key) is None


def test_a_damaged_thread_pool_is_compiled_again(disk, monkeypatch):
    key = llvm.object_key(threads.pool_ir(), host.detect())
    good = threads._load()
    code = disk.get(key)
    assert code and good.symbols
    for damaged in (b"", b"\x7fELF", code[: len(code) // 2]):
        disk.put(key, damaged)
        assert threads._load().symbols["dlc_parallel"]
        assert disk.get(key) == code


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"plan":null,"modules":[]}', b'{"modules":[1]}', DEEP,
                                  b'{"plan":[1,2,3,4,5,6,7,8,9],"modules":[]}', b'{"plan":{},"modules":{}}', b"\xff",
                                  b'{"plan":["n",1,[[]],[[]],[],[],[],0,[]],"modules":[0]}'])  # fmt: skip
def test_damaged_gpu_programs_are_compiled_again(disk, data):
    for rest in (b"", b"\n", b"\ncode"):
        disk.put("a", data + rest)
        assert cuda_stored.load("a", 0) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"[1,2]", b"[{},{}", DEEP, b"\xff", b'[{"k":[[],{}]},{}]',
                                  b'[{"k":["Contract",null]},{}]', b'[{"k":["Contract",{}]},{}]', b'[[],[]]',
                                  b'[{"k":[{},{}]},{}]', b'[["Contract",{"a":1}],[],[]]', b"[[[],{}],[],[]]"])
def test_damaged_tables_of_schedules_are_measured_again(data):
    with pytest.raises(ValueError):
        tuned_text.decode(data.decode())
    with pytest.raises(ValueError):
        Winner.decode(data)


COMPILER = ("base", "ir", "passes", "codegen", "runtime")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package, to be changed."""
    return Path(shutil.copytree(Path(dlc.__file__).parent, tmp_path_factory.mktemp("copy") / "dlc"))


def test_a_byte_changed_in_any_compiler_file_changes_the_key(package):
    """Python, LLVM IR and CUDA C alike, in every sub-package."""
    before = stored.source_digest(package)
    assert before == stored.compiler_version()
    files = [path for folder in COMPILER for path in (package / folder).rglob("*")
             if path.is_file() and path.suffix != ".pyc"]
    assert {path.suffix for path in files} == {".py", ".ll", ".cuh"}
    assert {path.parent for path in files} > {package / folder for folder in COMPILER}
    for path in files:
        source = path.read_bytes()
        at = len(source) // 2
        path.write_bytes(source[:at] + bytes([source[at] ^ 1]) + source[at + 1 :] if source else b"#")
        assert stored.source_digest(package) != before, path
        path.write_bytes(source)
    assert stored.source_digest(package) == before


def test_files_that_come_go_or_move_change_the_key_and_users_side_does_not(package):
    before = stored.source_digest(package)
    new, old = package / "passes" / "fuse" / "new.ll", package / "codegen" / "cuda" / "mma.cuh"
    new.write_text("")
    assert stored.source_digest(package) != before
    new.unlink()
    for place in (old.with_name("other.cuh"), old.parents[1] / "llvm" / "mma.cuh", package / "mma.cuh"):
        old.rename(place)
        assert stored.source_digest(package) != before
        place.rename(old)
    (package / "nn" / "module.py").write_text("")
    (package / "runtime" / "notes.txt").write_text("")
    assert stored.source_digest(package) == before


def test_the_key_of_a_program_has_the_compiler_s_digest(monkeypatch):
    graph = dlc.jit(lambda x: x * 7 + 1).graph(dlc.asarray(np.arange(20, dtype=np.float32)))
    before = stored.program_key(graph, (), host.detect())
    monkeypatch.setattr(stored, "compiler_version", lambda: "another")
    assert stored.program_key(graph, (), host.detect()) != before
