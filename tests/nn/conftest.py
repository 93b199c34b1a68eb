"""These tests compare many variants of small layers: they run on the graph interpreter, which compiles nothing.

Modules that set `COMPILED = True` go through the compiler; `DLC_TEST_COMPILED=1` sends all of them through it.
"""

import os

import pytest


@pytest.fixture(autouse=True)
def interpreter(request, monkeypatch):
    if not getattr(request.module, "COMPILED", False) and os.environ.get("DLC_TEST_COMPILED") != "1":
        monkeypatch.setenv("DLC_INTERPRET", "1")
