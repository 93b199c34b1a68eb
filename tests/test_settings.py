"""Environment variables: the spellings that each takes, and an error that names it for all others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import dlc
from dlc.base import settings
from dlc.base.settings import SettingError
from dlc.cli import main
from dlc.data import DatasetError, mnist
from dlc.runtime import cache, programs
from dlc.runtime import compile as compiler
from dlc.runtime.cpu import host

NO_NUMBERS = ["²", "1e9", "-1", "+1", "0x10", "nan", "inf", "1.0", "1_000", "١", "1 000", "1k", "ten", "9" * 5000]
NO_SWITCHES = ["2", "-1", "yess", "nan", "²", "None", "1.0", "10", "/tmp", "01"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("DLC_CACHE_MAX_BYTES", "DLC_CACHE_DIR", "DLC_NUM_THREADS", "DLC_CPU", "DLC_TUNE", "DLC_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: repr(v[:20]))
def test_what_is_no_number(value, monkeypatch):
    monkeypatch.setenv("DLC_CACHE_MAX_BYTES", value)
    with pytest.raises(SettingError, match=r"^DLC_CACHE_MAX_BYTES=.* is not a whole number of bytes$") as caught:
        cache.default()
    assert len(str(caught.value)) < 120
    monkeypatch.delenv("DLC_CACHE_MAX_BYTES")
    monkeypatch.setenv("DLC_NUM_THREADS", value)
    with pytest.raises(SettingError, match=r"^DLC_NUM_THREADS=.* is not a positive whole number$"):
        host.thread_count()


def test_numbers(monkeypatch):
    for text, value in {"": 1 << 30, "  ": 1 << 30, " 5 ": 5, "0": 0, "007": 7, "9" * 30: int("9" * 30)}.items():
        monkeypatch.setenv("DLC_CACHE_MAX_BYTES", text)
        assert cache.default().max_bytes == value
    monkeypatch.setenv("DLC_NUM_THREADS", "0")
    with pytest.raises(SettingError, match="DLC_NUM_THREADS='0' is not a positive whole number"):
        host.thread_count()
    for text in ("9" * 30, "", " ", "1"):
        monkeypatch.setenv("DLC_NUM_THREADS", text)
        assert host.thread_count() >= 1


@pytest.mark.parametrize("value", NO_SWITCHES)
def test_what_is_no_switch(value, monkeypatch):
    x = dlc.asarray(np.ones(3, np.float32))
    graph = dlc.jit(lambda x: x + 7).graph(x)
    for name, use in {
        "DLC_CACHE": cache.default,
        "DLC_TUNE": lambda: dlc.jit(lambda x: x + 7)(x),
        "DLC_INTERPRET": lambda: programs.compile_graph(graph),
        "DLC_VERIFY": lambda: compiler.for_cpu(graph, (), "main", host.detect(), "", False, None),
    }.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SettingError, match=rf"^{name}='{value}' is neither on nor off; expected 1 or 0"):
                use()


def test_switches(monkeypatch):
    for value, on in {"": None, " ": None, "1": True, " 1 ": True, "ON": True, "yes": True, "True": True, "0": False,
                      "off": False, "No": False, "FALSE": False}.items():
        monkeypatch.setenv("DLC_SWITCH", value)
        for default in (True, False):
            assert settings.switch("DLC_SWITCH", default) == (default if on is None else on)


@pytest.mark.parametrize("value", ["²", "1e9", "-1", "5", "0x10", "nan", "avx", "x" * 10000])
def test_cpu_levels(value, monkeypatch):
    monkeypatch.setenv("DLC_CPU", value)
    with pytest.raises(SettingError, match="DLC_CPU=.* is not a CPU level; expected one of sse2") as caught:
        host.detect.__wrapped__()
    assert len(str(caught.value)) < 150


def test_the_folder_of_data_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, folder in {"~/data": tmp_path / "data", str(tmp_path): tmp_path, "here": Path("here")}.items():
        monkeypatch.setenv("DLC_DATA", value)
        assert mnist.data_folder() == folder
    monkeypatch.setenv("DLC_DATA", "~no such user/data")
    with pytest.raises(SettingError, match="DLC_DATA='~no such user/data': there is no home directory ~no such user"):
        mnist.data_folder()
    monkeypatch.setenv("DLC_DATA", "")
    for ignored in ("relative", "~no such user", "~no such user/x"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert mnist.data_folder() == tmp_path / ".cache" / "dlc" / "data"
    monkeypatch.setattr(settings, "cache_home", lambda: None)
    with pytest.raises(DatasetError, match="no home directory.*DLC_DATA"):
        mnist.data_folder()


@pytest.mark.parametrize(("variable", "value"), [
    ("DLC_CACHE_MAX_BYTES", "²"), ("DLC_CACHE", "maybe"), ("DLC_CACHE_DIR", "~no such user"), ("DLC_CPU", "x"),
    ("DLC_NUM_THREADS", "0"),
])  # fmt: skip
def test_the_command_line_says_so_in_one_line(variable, value, monkeypatch, tmp_path):
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path))  # never the user's own: one of the commands clears it
    monkeypatch.setenv(variable, value)
    host.detect.cache_clear()
    commands = [["info"], ["cache", "stats"], ["cache", "clear"], ["dump", "tests/cli/example.py:recurrence"]]
    wanted = {"DLC_CPU": (0, 3), "DLC_NUM_THREADS": (0, 3)}.get(variable, (0, 1, 2))
    for command in [commands[k] for k in wanted]:
        result = CliRunner().invoke(main, command)
        assert isinstance(result.exception, SystemExit) and result.exit_code == 2, (command, result.exception)
        assert f"{variable}=" in result.output and result.output.count("\n") == 1, result.output
    monkeypatch.undo()
    host.detect.cache_clear()


def test_the_command_line_says_so_where_something_is_compiled(tmp_path):
    """In a process of its own: what another test has compiled would not be checked again."""
    command = [sys.executable, "-m", "dlc", "dump", "tests/cli/example.py:recurrence"]
    env = {**os.environ, "DLC_CACHE_DIR": str(tmp_path), "DLC_VERIFY": "2"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "DLC_VERIFY=" in done.stderr, done
    assert (done.stdout + done.stderr).count("\n") == 1, done
