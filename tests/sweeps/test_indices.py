"""A short sweep of index expressions for each level of instructions, and the sweep's own means."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import dlc
from dlc.runtime.cpu import host, memory
from tests.sweeps import indices
from tests.sweeps.canaries import CANARY, canaries

LEVELS = ("sse2", "avx2", "avx512")


@pytest.mark.parametrize("level", LEVELS)
def test_indices(level, monkeypatch):
    if LEVELS.index(level) > LEVELS.index(host.detect().level):
        pytest.skip(f"this host has no {level}")
    monkeypatch.setenv("DLC_CPU", level)
    seed = LEVELS.index(level)
    done, bad = indices.sweep(seed, seconds=600, count=40)
    assert done == 40 and not bad, "\n\n".join(bad)


def test_canaries_are_seen():
    with canaries() as watch:
        x = dlc.asarray(np.arange(5, dtype=np.uint8))
        buffer = memory.allocate(5)
        beside = ctypes.c_ubyte.from_address(buffer.address + 5)
        assert beside.value == ctypes.c_ubyte.from_address(buffer.address - 1).value == CANARY
        assert watch.check() == []
        beside.value = 1
        assert watch.check() == ["1 bytes written after a buffer of 5 bytes"] and watch.check() == []
        ctypes.c_ubyte.from_address(buffer.address - 3).value = 1
        del buffer
        assert watch.check() == ["1 bytes written before a buffer of 5 bytes"]
        assert (x + 1).numpy().tolist() == [1, 2, 3, 4, 5]


def test_what_goes_wrong_is_reported(capsys):
    """Errors and crashes end as short programs; the cases after them are run."""
    fine = indices.draw(1)._replace(eager=False)
    name = indices.Expr("cast", "int64", (indices.Expr("name", "", attr="i"),))

    def case(function: str) -> indices.Case:
        broken = indices.Expr(function, "int64", (name,))
        return fine._replace(accesses=((0, (indices.Expr("neg", "int64", (broken,)),)),))

    abort = "__builtins__['__import__']('signal').raise_signal(6) or dlc.abs"
    found = list(indices.failures([fine, case("no_such"), fine, case(abort), fine]))
    assert ["no_such" in wrong for _, wrong in found] == [True, False]
    assert found[1][1] == "exit status -6"
    small, wrong = indices.shortest(*found[0])
    assert small.texts() == ["x1[dlc.no_such(i.astype(dlc.int64))]"]
    text = indices.program(small, wrong)
    with pytest.raises(AttributeError, match="no_such"):
        exec(text, {})
    exec(indices.program(fine, ""), {})
    assert "Tensor" in capsys.readouterr().out
