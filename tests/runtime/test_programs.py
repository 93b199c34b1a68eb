"""Where executables come from: the compiler, or the disk cache without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dlc.codegen.llvm.kernel import LlvmModule
from dlc.ir.loops.parse import parse_kernel
from dlc.runtime.compile import MachineCode
from dlc.runtime.cpu import host
from dlc.runtime.cpu import llvm as native

PROGRAM = """
import json, sys
import numpy as np
import dlc

@dlc.jit
def step(x, w):
    return dlc.value_and_grad(lambda w: dlc.mean((x @ w) ** 2))(w)

loss, gradient = step(dlc.asarray(np.ones((4, 3), np.float32)), dlc.asarray(np.ones((3, 2), np.float32)))
parts = ("passes.fuse", "codegen.program.build", "runtime.compile", "ir.loops")
print(json.dumps([float(loss), gradient.numpy().tolist(), [p for p in parts if f"dlc.{p}" in sys.modules]]))
"""


def test_a_stored_program_needs_no_compiler(tmp_path):
    """The compiler's modules take longer to import than a small program to load. One that nobody checked is not taken
    for one that was."""

    def run(verify="0"):
        environment = {**os.environ, "DLC_CACHE_DIR": str(tmp_path), "DLC_CACHE": "1", "DLC_VERIFY": verify}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    *cold, compiler = run()
    assert len(compiler) == 4 and cold == [9.0, [[3.0, 3.0]] * 3]
    *warm, compiler = run()
    assert warm == cold and compiler == []
    assert [len(run(verify="1")[2]) for _ in range(2)] == [4, 0]


@pytest.mark.parametrize("large, sizes", [(1 << 30, [8, 2]), (1, [1] * 10)])
def test_modules_are_of_few_kernels_and_fewer_large_ones(monkeypatch, large, sizes):
    texts: list[str] = []
    monkeypatch.setattr(native.ObjectPool, "submit", lambda pool, text: texts.append(text))
    monkeypatch.setattr(MachineCode, "LARGE", large)
    code, module = MachineCode(host.detect()), LlvmModule(host.detect())
    for k in range(10):
        kernel = parse_kernel(f"kernel k{k}(x: f32[4] writes)\n  x[0] = {k}.0\n")
        code.kernel(kernel)
        module.add(kernel)
    code.flush()
    defined = [[name for name in module.kernels if f"define void @{name}(" in text] for text in texts]
    assert [len(names) for names in defined] == sizes and sum(defined, []) == list(module.kernels)
