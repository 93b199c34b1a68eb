"""Compiling and calling hand-written kernels in the emitter's tests."""

from __future__ import annotations

import ctypes

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
import numpy as np

from dlc.codegen.llvm.kernel import OPT_LEVEL, PASSES, emit_module
from dlc.codegen.target.cpu import LEVELS, CpuTarget
from dlc.ir import dtypes
from dlc.ir.loops.interp.interp import run
from dlc.ir.loops.ir import Buffer, Kernel, Stmt, Store
from dlc.ir.loops.traverse import walk
from dlc.runtime.cpu.llvm import Library, compile_object
from tests import targets

__all__ = ["LEVELS", "Compiled", "buffer", "guarded", "kernel", "target", "untouched"]


def target(level: str) -> CpuTarget:
    return targets.cpu(level)


def buffer(name: str, dtype: dtypes.DType | str, *shape: int, space: str = "global") -> Buffer:
    return Buffer(name, dtypes.by_name(dtype) if isinstance(dtype, str) else dtype, tuple(shape), space)


def kernel(name: str, params: list[Buffer], body: Stmt) -> Kernel:
    stored = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return Kernel(name, tuple(params), frozenset(stored & set(params)), body)


class Compiled:
    """A kernel as a Python function of NumPy arrays, which it changes in place."""

    def __init__(self, k: Kernel, cpu: CpuTarget, passes: str = PASSES, opt_level: int = OPT_LEVEL):
        self.kernel = k
        self.text = emit_module([k], cpu)
        if not targets.runs(cpu):  # the text is made, and compiled; the meaning is the interpreter's
            compile_object(self.text, cpu, passes=passes, opt_level=opt_level)
            self.call = None
            return
        self.library = Library.load(compile_object(self.text, cpu, passes=passes, opt_level=opt_level))
        self.address = self.library.address(k.name)
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.address)

    def __call__(self, *arrays: np.ndarray, begin: int = 0, end: int | None = None) -> None:
        for a, p in zip(arrays, self.kernel.params, strict=True):
            assert a.dtype == p.dtype.np and a.size == p.size, (p.name, a.dtype, a.size)
        if self.call is None:
            assert begin == 0 and end is None
            run(self.kernel, list(arrays))
            return
        pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        self.call(pointers, begin, self.kernel.tasks if end is None else end)


def guarded(values: np.ndarray, pad: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(a view of a copy of `values`, the whole allocation): what lies around the view must stay 0x55."""
    size = values.nbytes
    whole = np.full(size + 2 * pad, 0x55, np.uint8)
    view = whole[pad : pad + size].view(values.dtype) if size else np.empty(0, values.dtype)
    view[...] = values.ravel()
    return view, whole


def untouched(whole: np.ndarray, pad: int = 64) -> bool:
    return bool((whole[:pad] == 0x55).all() and (whole[-pad:] == 0x55).all())
