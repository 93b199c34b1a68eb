"""Integer arithmetic in the emitted CUDA C, compiled for this machine as C++: every operation on every integer type, at
the limits of the type, with every sign and with zero."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from dlc.codegen.cuda.expr import Expressions
from dlc.codegen.cuda.prelude import prelude
from dlc.codegen.cuda.types import ctype
from dlc.codegen.cuda.writer import Writer
from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.scalar import SCALAR_OPS

COMPILER = shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")

INTEGERS = [d for d in dtypes.ALL if d.is_int]
OPS = [row for row in SCALAR_OPS.values() if row.name != "threefry"]
HOST = """#include <algorithm>
#include <cmath>
#include <cstring>
#define __device__
#define __forceinline__ inline
using std::max; using std::min;
"""


def values(dtype):
    if not dtype.is_int:
        return np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 127.5, -129.0, 3e4, -3e4, 255.9, 3e9, -3e9, 1e19, -1e19,
                         np.inf, -np.inf, np.nan], dtype.np)
    low, high = dtypes.limits(dtype)
    few = {low, low + 1, low // 2, high // 2, high - 1, high, 0, 1, 2, 3, 7, dtype.bits - 1, dtype.bits, dtype.bits + 1}
    return np.array(sorted(few | ({-1, -2, -3, -7} if low < 0 else set())), dtype.np)


def function(name, expr, params):
    """C++ that computes `expr`, which loads element 0 of the buffers `params`, for arrays of them."""
    writer = Writer()
    expressions = Expressions(writer)
    for p in params:
        writer.name(p, p.name)
    expressions.count([expr])
    result = expressions.bare(expr, ctype(expr.dtype))
    head = ", ".join(f"const {ctype(p.dtype)}* {p.name}" for p in params)
    moved = ", ".join(f"{p.name} + k" for p in params)
    lines = "\n".join(writer.scopes[-1].lines)
    return (f"static {ctype(expr.dtype)} {name}_of({head}) {{\n{lines}\n    return {result};\n}}\n"
            f'extern "C" void {name}({head}, {ctype(expr.dtype)}* out, long n) {{\n'
            f"    for (long k = 0; k < n; ++k) out[k] = {name}_of({moved});\n}}\n")


def compiled(folder, functions):
    text = "\n".join(functions)
    source, library = folder / "ops.cpp", folder / "ops.so"
    source.write_text(HOST + prelude(text) + text)
    options = ["-std=c++17", "-O1", "-w", "-fPIC", "-shared"]
    subprocess.run([COMPILER, *options, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def run(library, name, arrays, dtype):
    out = np.zeros(arrays[0].size, dtype.np)
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*arrays, out)]
    getattr(library, name)(*pointers, ctypes.c_long(out.size))
    return out


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
def test_operations(dtype, tmp_path):
    rows = [row for row in OPS if dtype.kind in row.kinds]
    a, b = (loops.Buffer(x, dtype, (1,)) for x in "ab")
    zero = loops.const(0)
    exprs = {row.name: loops.op(row.name, *(loops.load(x, zero) for x in (a, b)[: row.arity])) for row in rows}
    library = compiled(tmp_path, [function(f"op_{row.name}", exprs[row.name], (a, b)[: row.arity]) for row in rows])
    x, y = (np.ascontiguousarray(v.ravel()) for v in np.meshgrid(values(dtype), values(dtype)))
    for row in rows:
        with np.errstate(all="ignore"):
            want = row.numpy(*(x, y)[: row.arity])
        got = run(library, f"op_{row.name}", (x, y)[: row.arity], exprs[row.name].dtype)
        bad = got != want
        assert not bad.any(), (row.name, [*zip(x[bad], y[bad], got[bad], want[bad], strict=True)][:5])


def converted(v, low, high):
    if isinstance(v, int):
        return (v - low) % (high - low + 1) + low
    if np.isnan(v):
        return 0
    return min(max(int(v), low), high) if np.isfinite(v) else low if v < 0 else high


@pytest.mark.parametrize("source", [*INTEGERS, dtypes.float32, dtypes.float64], ids=lambda d: d.name)
def test_conversions(source, tmp_path):
    """Integers wrap; floats saturate, and NaN is 0."""
    a = loops.Buffer("a", source, (1,))
    exprs = {d.name: loops.cast(loops.load(a, loops.const(0)), d) for d in INTEGERS if d is not source}
    library = compiled(tmp_path, [function(f"to_{n}", e, (a,)) for n, e in exprs.items()])
    x = values(source)
    for name, e in exprs.items():
        want = [converted(v, *dtypes.limits(e.dtype)) for v in x.tolist()]
        assert run(library, f"to_{name}", (x,), e.dtype).tolist() == want, name
