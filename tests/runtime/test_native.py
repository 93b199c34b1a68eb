"""IR text to running code."""

import ctypes
import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from dlc.codegen.target.cpu import LEVELS
from dlc.runtime.cpu import host, llvm


def constant(value: int, symbol: str = "kernel") -> str:
    return f"define void @{symbol}(ptr %out) {{\n  store i64 {value}, ptr %out\n  ret void\n}}\n"


def result(call) -> int:
    out = ctypes.c_int64(-1)
    call(ctypes.addressof(out))
    return out.value


def axpy(lanes: int) -> str:
    """args: n, x, y; y[i] = 2.5 * x[i] + y[i] with vectors of `lanes` floats; n a multiple of it."""
    vector = f"<{lanes} x float>"
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @axpy(ptr %args) {{
entry:
  %i.at = alloca i64
  store i64 0, ptr %i.at
  %n = load i64, ptr %args
  %xp = getelementptr i8, ptr %args, i64 8
  %x = load ptr, ptr %xp
  %yp = getelementptr i8, ptr %args, i64 16
  %y = load ptr, ptr %yp
  br label %loop
loop:
  %i = load i64, ptr %i.at
  %xi = getelementptr float, ptr %x, i64 %i
  %yi = getelementptr float, ptr %y, i64 %i
  %xv = load {vector}, ptr %xi, align 4
  %yv = load {vector}, ptr %yi, align 4
  %r = call {vector} @llvm.fma.v{lanes}f32({vector} %xv, {vector} splat (float 2.5), {vector} %yv)
  store {vector} %r, ptr %yi, align 4
  %next = add i64 %i, {lanes}
  store i64 %next, ptr %i.at
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


@pytest.mark.parametrize("passes", llvm.PIPELINES)
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_and_pipeline_runs(level, passes):
    own = host.detect()
    if not own.is_x86 or LEVELS.index(level) > LEVELS.index(own.level):
        pytest.skip(f"the host has no {level}")
    target = own.with_features(level)
    library = llvm.Library.load(llvm.compile_object(axpy(target.lanes(4)), target, passes=passes))
    x, y = np.arange(256, dtype=np.float32), np.ones(256, np.float32)
    arguments = np.array([x.size, x.ctypes.data, y.ctypes.data], np.int64)
    library.function("axpy")(arguments.ctypes.data)
    np.testing.assert_array_equal(y, 2.5 * x + 1)


@pytest.mark.skipif(host.detect().level != "avx512", reason="needs AVX-512")
def test_levels_use_their_registers():
    target = host.detect()
    assert "zmm" in llvm.assembly(axpy(16), target)
    for level, register in (("avx2", "ymm"), ("sse2", "xmm")):
        text = llvm.assembly(axpy(16), target.with_features(level))
        assert register in text and "zmm" not in text
    assert "alloca" not in llvm.optimised_ir(axpy(16), target)
    assert "alloca" in llvm.optimised_ir(axpy(16), target, passes="none")


def test_equal_names_do_not_clash():
    target = host.detect()
    libraries = [llvm.Library.load(llvm.compile_object(constant(value), target)) for value in range(5)]
    assert [result(library.function("kernel")) for library in libraries] == list(range(5))
    again = llvm.Library.load(llvm.compile_object(constant(3), target), exports=("kernel",))
    assert again.address("kernel") not in {library.address("kernel") for library in libraries}


def test_imports_and_the_process_own_symbols():
    target = host.detect()
    helper = llvm.Library.load(llvm.compile_object(constant(41), target))
    text = """
@bias = global i64 1
declare void @helper(ptr)
declare i64 @labs(i64)
define void @kernel(ptr %out) {
  call void @helper(ptr %out)
  %v = load i64, ptr %out
  %b = load i64, ptr @bias
  %s = add i64 %v, %b
  %n = sub i64 0, %s
  %r = call i64 @labs(i64 %n)
  store i64 %r, ptr %out
  ret void
}"""
    library = llvm.Library.load(llvm.compile_object(text, target), {"helper": helper.address("kernel")})
    assert result(library.function("kernel")) == 42
    ctypes.c_int64.from_address(library.address("bias")).value = 59
    assert result(library.function("kernel")) == 100


def test_function_keeps_its_library_loaded():
    call = llvm.Library.load(llvm.compile_object(constant(7), host.detect())).function("kernel")
    for value in range(20):  # dead libraries are unloaded by later loads
        gc.collect(0)  # all generations would be walked through twenty times, with all that other tests left
        data = llvm.compile_object(constant(value), host.detect())
        assert result(llvm.Library.load(data).function("kernel")) == value
    assert result(call) == 7


def test_parse_error_names_the_line():
    text = "define void @f(ptr %p) {\n  %x = load i32, ptr %p\n  %y = fadd float %x, 1.0\n  ret void\n}\n"
    with pytest.raises(llvm.IRError, match="line 3: .*'%x' defined with type 'i32'") as error:
        llvm.compile_object(text, host.detect())
    assert error.value.line == 3
    assert error.value.text == "%y = fadd float %x, 1.0"
    with pytest.raises(llvm.IRError, match="does not dominate all uses"):
        llvm.compile_object("""define i32 @f(i1 %c) {
  br i1 %c, label %a, label %b
a:
  %x = add i32 1, 1
  br label %b
b:
  ret i32 %x
}""", host.detect())
    with pytest.raises(ValueError, match="unknown pass pipeline 'fastest'; expected one of none, fast"):
        llvm.compile_object(text, host.detect(), passes="fastest")


def test_link_errors():
    target = host.detect()
    text = (
        "declare void @nobody_has_this(ptr)\n"
        "define void @kernel(ptr %p) {\n  call void @nobody_has_this(ptr %p)\n  ret void\n}"
    )
    code = llvm.compile_object(text, target)
    with pytest.raises(llvm.LinkError, match="uses a symbol that is neither imported"):
        llvm.Library.load(code, exports=("kernel",))
    with pytest.raises(llvm.LinkError, match="absent"):
        llvm.Library.load(llvm.compile_object(constant(1), target)).address("absent")
    with pytest.raises(llvm.LinkError):
        llvm.Library.load(b"this is no object file").address("kernel")
    with pytest.raises(llvm.LinkError):
        llvm.Library.load(code[: len(code) // 2]).address("kernel")


def test_object_key_depends_on_everything():
    target = host.detect()
    base = llvm.object_key("x", target)
    assert base == llvm.object_key("x", target.with_threads(99))
    assert len({base, llvm.object_key("y", target), llvm.object_key("x", target, opt_level=1),
                llvm.object_key("x", target, passes="none")}) == 4


def test_from_many_threads():
    failures = []

    def work(seed: int) -> None:
        for step in range(6):
            value = seed * 1000 + step
            library = llvm.Library.load(llvm.compile_object(constant(value), host.detect()))
            if result(library.function("kernel")) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def strided(stride: int) -> str:
    """out[i * stride] = i for i below n: an address that strength reduction would count up instead."""
    return f"""
define void @strided(ptr %out, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %at = mul i64 %i, {stride}
  %p = getelementptr i64, ptr %out, i64 %at
  store i64 %i, ptr %p
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def test_addresses_stay_as_written_only_in_our_code():
    """LLVM's strength reduction is an option of the whole process: off for the pipeline "none", on before and after."""
    text, target = strided(1237), host.detect()
    reduced = [llvm.assembly(text, target, passes="fast")]
    written = llvm.assembly(text, target, passes="none")
    pool = llvm.ObjectPool(target, 2, passes="none")
    for _ in range(4):
        pool.submit(text)
    assert len(set(pool.results())) == 1
    assert pool.results()[0] == llvm.compile_object(text, target, passes="none")
    reduced.append(llvm.assembly(text, target, passes="fast"))
    assert all("imul" not in asm for asm in reduced) and "imul" in written


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("megabytes", [10, 40])
def test_little_memory_is_an_error(megabytes):
    """LLVM would end the process."""
    program = f"""
import resource
import dlc, dlc.runtime.compile
x = dlc.ones(30, 30).realize()
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + ({megabytes} << 20)
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
try:
    for k in range(20):
        dlc.jit(lambda a: dlc.sum(dlc.exp(a * (k + 0.5)) @ a.mT, axis=0))(dlc.ones(20 + k, 30)).numpy()
except dlc.OutOfMemory as error:
    assert "dlc cannot compile" in str(error)
else:
    raise SystemExit("it had enough")
resource.setrlimit(resource.RLIMIT_AS, unlimited)
assert (x + 1).numpy().sum() == 1800  # and goes on
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DLC_CACHE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
