"""The CPU that runs CUDA C (tests/cuda_on_cpu): that it computes what the text says, and what it complains about."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests import cuda_on_cpu
from tests.cuda_on_cpu.device import compiled, library, machine
from tests.cuda_on_cpu.source import definitions, translated

pytestmark = pytest.mark.skipif(bool(cuda_on_cpu.why_not()), reason=cuda_on_cpu.why_not() or "-")


def run(body: str, x: np.ndarray, y: np.ndarray, block: int = 64, grid: int = 1, order: int = 0, late: bool = True,
        before: str = "", races: bool = False) -> str:
    """Run a kernel of float pointers x and y; the machine's complaint."""
    text = f"{before}\nextern \"C\" __global__ void k(const float* x, float* y)\n{{\n{body}\n}}\n"
    kernel = library(compiled(text, races)).run_k
    pointers = (ctypes.c_uint64 * 2)(x.ctypes.data, y.ctypes.data)
    sizes = (ctypes.c_size_t * 2)(x.nbytes, y.nbytes)
    error = machine().gpu_launch(b"k", kernel, grid, block, 0, order, int(late), 2, pointers, sizes, b"\0\1", 0, b"",
                                 int(races))
    return (error or b"").decode()


def arrays(n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.float32), np.zeros(n, np.float32)


SYNC = """const int t = threadIdx.x;
__shared__ __align__(16) float s[64];
s[t] = x[t];
{wait}
y[t] = s[63 - t];"""


def test_a_barrier_and_a_missing_one():
    x, y = arrays()
    for order in range(4):
        assert run(SYNC.format(wait="__syncthreads();"), x, y, order=order) == ""
        np.testing.assert_array_equal(y, x[::-1])
        y[:] = 0
        assert run(SYNC.format(wait=""), x, y, order=order) == ""
        assert not np.array_equal(y, x[::-1])  # NaN where nothing was written yet


def test_a_barrier_that_not_all_reach():
    x, y = arrays()
    assert "waits for ever at __syncthreads" in run("if (threadIdx.x < 7) __syncthreads();", x, y)
    two = "if (threadIdx.x < 7) __syncthreads();\nelse\n__syncthreads();"
    assert "at the barrier of line" in run(two, x, y)


def test_lanes_apart():
    x, y = arrays()
    one = "y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 5);"
    assert run(one, x, y, order=2) == ""
    np.testing.assert_array_equal(y, x[np.arange(64) ^ 5])
    assert "waits for ever at __shfl" in run(f"if (threadIdx.x % 2) {one}", x, y)
    assert "in a group of 16 threads" in run(one, x, y, block=48)


def test_memory_of_others():
    x, y = arrays()
    assert "writes 256 bytes behind the start of parameter 1" in run("y[threadIdx.x + 1] = 0;", x, y)
    assert "writes -4 bytes" in run("y[(int)threadIdx.x - 1] = 0;", x, y)
    assert "only reads" in run("((float*)x)[threadIdx.x] = 7;", x, y)
    assert x[0] == 0
    assert run("y[threadIdx.x] = x[threadIdx.x + 1];", x, y) == "" and np.isnan(y[63])
    assert "outside of an array" in run("float a[4]; a[threadIdx.x] = 1; y[0] = a[0];", x, y)
    assert "behind a shared array of 32 bytes" in run(
        "__shared__ float s[8];\nfloat* p = s;\np[threadIdx.x] = 1;", x, y)
    assert "off its boundary" in run("y[0] = ((const uint4*)(x + threadIdx.x))->x;", x, y)


COPY = """__shared__ __align__(16) float s[256];
copy_async(s + 4 * threadIdx.x, x + 4 * threadIdx.x);
commit_copies();
{wait}
y[threadIdx.x] = s[4 * threadIdx.x];"""


def test_copies_come_when_they_are_waited_for():
    from dlc.codegen.cuda.mma import matrix_functions

    x, y = arrays(256)
    before = matrix_functions("copy_async")
    for late in (False, True):
        assert run(COPY.format(wait="wait_copies<0>();"), x, y, late=late, before=before) == ""
        np.testing.assert_array_equal(y[:64], x[::4])
    assert run(COPY.format(wait="wait_copies<1>();"), x, y, before=before) == "" and np.isnan(y[:64]).all()
    assert "off 16 bytes" in run(COPY.replace("x + 4", "x + 1").format(wait=""), x, y, before=before)


def test_instructions_without_emulation_are_named():
    with pytest.raises(cuda_on_cpu.NotEmulated, match="inline PTX in clock_of"):
        translated('__device__ int clock_of() {\n    int y;\n    asm("mov %0, %%clock;" : "=r"(y));\n    return y;\n}')
    with pytest.raises(cuda_on_cpu.NotEmulated, match="inline PTX in extern"):
        translated('extern "C" __global__ void k(float* x) { asm volatile("trap;"); }')


def test_all_inline_ptx_of_the_compiler_is_emulated():
    from dlc.base.texts import sections
    from dlc.codegen.cuda import mma
    from dlc.codegen.cuda.prelude import prelude

    calls = [call for calls in mma.CALLS.values() for call in calls]
    matrices = mma.matrix_functions(" ".join([*calls, "gate_", "bulk_copy_3(", "wgmma_64x64", "wgmma_held_64x128"]))
    text = prelude(" ".join(sections("dlc.codegen.cuda", "device_functions.cuh"))) + "\n" + matrices
    known = [d for file in ("device_functions.cuh", "mma.cuh", "mbarrier.cuh")
             for d in definitions("\n".join(sections("dlc.codegen.cuda", file).values()))]
    assert sum("asm" in d for d in definitions(text)) == sum("asm" in d for d in known) + 2 > 30  # wgmma: half, bf16
    assert "asm" not in translated(text)


def test_conversions_are_the_hardware_s():
    import ml_dtypes

    from dlc.base.texts import sections
    from dlc.codegen.cuda.prelude import prelude
    from dlc.ir.loops.interp.values import tf32

    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 6400, dtype=np.uint32).view(np.float32)
    x[:8] = [np.inf, -np.inf, np.nan, 65520, 65519.996, 6e-8, 2.9e-8, -0.0]
    body = """for (int i = threadIdx.x; i < 6400; i += 64) {
        y[i] = to_float(to_half(x[i]));
        y[6400 + i] = to_float(to_bf16(x[i]));
        y[12800 + i] = __uint_as_float(tf32_of(__float_as_uint(x[i])));
    }"""
    y = np.zeros(3 * 6400, np.float32)
    products = sections("dlc.codegen.cuda", "mma.cuh")["mma_tf32"]
    before = prelude(body) + products[: products.index("__device__ __forceinline__ void load_words")]
    assert run(body, x, y, before=before) == ""
    with np.errstate(all="ignore"):
        for got, want in zip(y.reshape(3, -1), (x.astype(np.float16), x.astype(ml_dtypes.bfloat16), tf32(x)),
                             strict=True):
            np.testing.assert_array_equal(got, np.asarray(want, np.float32))


def test_races():
    x, y = arrays()
    for order in range(2):
        assert run(SYNC.format(wait="__syncthreads();"), x, y, order=order, races=True) == ""
        assert "no barrier between" in run(SYNC.format(wait=""), x, y, order=order, races=True)
    late = SYNC.format(wait="__syncthreads();") + "\ns[t] = 0;"  # while others still read
    assert "no barrier between" in run(late, x, y, races=True)
    assert run(late.replace("y[t] = s[63 - t];", "y[t] = s[63 - t]; __syncthreads();"), x, y, races=True) == ""
    over = "y[(threadIdx.x + blockIdx.x) % 64] = x[threadIdx.x];"
    assert run(over, x, y, races=True) == ""
    assert "writes over in memory" in run(over, x, y, grid=2, races=True)
    assert "outside of all its parameters" in run("if (x[64 + threadIdx.x] > 0) y[0] = 1;", x, y, races=True)
    assert "outside of its shared arrays" in run(
        "__shared__ float s[64];\nconst float* p = s;\ny[threadIdx.x] = p[64 + threadIdx.x];", x, y, races=True)
    own = "y[threadIdx.x] = x[threadIdx.x]; y[threadIdx.x] += 1;"
    assert run(own, y, y, races=True) == ""  # a parameter that is overwritten by those who read it
    assert "no barrier between" in run("y[63 - threadIdx.x] = x[threadIdx.x];", y, y, races=True)
