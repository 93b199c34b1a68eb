"""The thread pool: every index exactly once, whoever calls and however often."""

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from dlc.runtime.cpu import host, llvm, threads

# args: counters (i64 each), n, grain, and how many ranges ran; `body` adds 1 to counters[begin:end].
KERNEL = """
declare void @dlc_parallel(ptr, ptr, i64, i64)
define void @body(ptr %args, i64 %begin, i64 %end) {
entry:
  %counters = load ptr, ptr %args
  %ranges = getelementptr i64, ptr %args, i64 3
  %old = atomicrmw add ptr %ranges, i64 1 monotonic
  %empty = icmp sge i64 %begin, %end
  br i1 %empty, label %done, label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %p = getelementptr i64, ptr %counters, i64 %i
  %v = load volatile i64, ptr %p
  %w = add i64 %v, 1
  store volatile i64 %w, ptr %p
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @once(ptr %args) {
  %np = getelementptr i64, ptr %args, i64 1
  %n = load i64, ptr %np
  %gp = getelementptr i64, ptr %args, i64 2
  %grain = load i64, ptr %gp
  call void @dlc_parallel(ptr @body, ptr %args, i64 %n, i64 %grain)
  ret void
}
define void @thousand(ptr %args) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @once(ptr %args)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, 1000
  br i1 %more, label %loop, label %done
done:
  ret void
}
define void @nested(ptr %args) {
  call void @dlc_parallel(ptr @nested_body, ptr %args, i64 8, i64 1)
  ret void
}
define internal void @nested_body(ptr %args, i64 %begin, i64 %end) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
  %at = mul i64 %i, 40
  %mine = getelementptr i8, ptr %args, i64 %at
  call void @once(ptr %mine)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@pytest.fixture(scope="module")
def kernel() -> llvm.Library:
    return llvm.Library.load(llvm.compile_object(KERNEL, host.detect()), threads.pool_symbols())


@pytest.fixture(autouse=True)
def restore_threads():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def run(kernel: llvm.Library, n: int, grain: int, symbol: str = "once") -> tuple[np.ndarray, int]:
    """The counters after one call, and how many ranges it made."""
    counters = np.zeros(max(n, 1), np.int64)
    arguments = np.array([counters.ctypes.data, n, grain, 0], np.int64)
    kernel.function(symbol)(arguments.ctypes.data)
    return counters[: max(n, 0)], int(arguments[3])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_index_once(kernel, count):
    threads.set_num_threads(count)
    assert threads.get_num_threads() == count
    for n in (-3, 0, 1, 2, 3, 7, 64, 1000, 12_345):
        for grain in (-1, 0, 1, 3, 64, 1000, 100_000):
            if n > 1000 and grain < 3:
                continue
            counters, ranges = run(kernel, n, grain)
            assert (counters == 1).all(), (n, grain)
            pieces = -(-n // max(grain, 1)) if n > 0 else 0
            assert ranges == pieces or (count == 1 and ranges == min(pieces, 1))


def test_hot_dispatches(kernel):
    for n, grain in ((2, 1), (64, 16), (1000, 100), (5000, 2500)):
        counters, _ = run(kernel, n, grain, "thousand")
        assert (counters == 1000).all()


def test_after_the_workers_fell_asleep(kernel):
    for _ in range(5):
        time.sleep(0.003)
        assert (run(kernel, 1000, 10)[0] == 1).all()


def test_more_than_one_thread_works():
    seen = set()

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    def body(args, begin, end):
        seen.add(threading.get_native_id())
        time.sleep(0.005)

    threads.set_num_threads(3)
    ranges = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    ranges(threads.pool_symbols()["dlc_parallel"])(ctypes.cast(body, ctypes.c_void_p), None, 12, 1)
    assert len(seen) == 3


def test_nested_calls_run_inline(kernel):
    threads.set_num_threads(3)
    counters = np.zeros((8, 100), np.int64)
    arguments = np.zeros((8, 5), np.int64)
    arguments[:, 0] = counters.ctypes.data + np.arange(8) * 800
    arguments[:, 1:3] = 100, 7
    kernel.function("nested")(arguments.ctypes.data)
    assert (counters == 1).all()


def test_from_many_python_threads_while_the_size_changes(kernel):
    failures = []
    stop = threading.Event()

    def work(seed: int) -> None:
        for step in range(150):
            n = 50 + (seed * 131 + step * 37) % 3000
            counters, _ = run(kernel, n, 1 + step % 50)
            if (counters != 1).any():
                failures.append((seed, step))

    def resize() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            threads.set_num_threads(1 + count % 4)
            time.sleep(0.002)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    resizer = threading.Thread(target=resize)
    for thread in (*workers, resizer):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    resizer.join()
    assert not failures


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
def test_workers_go_home(kernel):
    def alive() -> int:
        return len(os.listdir("/proc/self/task"))

    threads.set_num_threads(1)
    time.sleep(0.05)
    alone = alive()
    threads.set_num_threads(6)
    run(kernel, 1000, 10)
    assert alive() == alone + 5
    threads.set_num_threads(2)
    for _ in range(200):
        if alive() == alone:
            break
        time.sleep(0.01)
    assert alive() == alone
    run(kernel, 1000, 10)
    assert alive() == alone + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_after_fork(kernel):
    threads.set_num_threads(3)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            run(kernel, 2000, 10, "thousand")

    other = threading.Thread(target=keep_busy)  # so that most forks happen in the middle of a job
    other.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                good = all((run(kernel, 500, 5)[0] == 1).all() for _ in range(20))
                tasks = "/proc/self/task"
                workers = len(os.listdir(tasks)) == 3 if os.path.isdir(tasks) else True
                text = KERNEL.replace("@body", "@other")
                library = llvm.Library.load(llvm.compile_object(text, host.detect()), threads.pool_symbols())
                good = good and (run(library, 100, 3)[0] == 1).all()
                os._exit(0 if good and workers else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert (run(kernel, 500, 5)[0] == 1).all()
    finally:
        stop.set()
        other.join()


def test_bad_counts():
    for count in (0, -1, threads.MAX_THREADS + 1):
        with pytest.raises(ValueError, match=f"not {count}"):
            threads.set_num_threads(count)


SCRIPT = """
import ctypes, os, signal, threading, time
from dlc.runtime.cpu import threads
RANGES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
parallel = RANGES(threads.pool_symbols()["dlc_parallel"])
BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
"""


def script(text: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(text)], capture_output=True, text=True, timeout=20, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


@pytest.mark.parametrize("state", ["", "time.sleep(0.01)", "threading.Thread(target=work, daemon=True).start()"])
def test_exit_with_workers_in_every_state(state):
    """Spinning, asleep, or in the middle of a daemon thread's job: the process ends at once and cleanly."""
    done = script(f"""
        nothing = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p)
        def work():
            for _ in range(100):
                parallel(nothing, None, 1_000_000, 1)
        parallel(nothing, None, 100, 1)
        {state}
    """)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_interrupt_is_delivered_after_the_call():
    done = script("""
        nothing = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit SIGINT as ignored
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            while time.monotonic() - start < 5:
                parallel(nothing, None, 100_000, 1)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert done.stdout.split() == ["interrupted"], done.stderr


def test_one_thread_starts_no_worker():
    done = script("""
        keep = BODY(lambda args, begin, end: print(begin, end))
        parallel(ctypes.cast(keep, ctypes.c_void_p), None, 100, 1)
        print(threads.get_num_threads())
    """, DLC_NUM_THREADS="1")
    assert done.stdout.split() == ["0", "100", "1"], done.stderr


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("linux", "riscv64")])
def test_ir_for_other_systems_is_valid(system, machine):
    text = threads.pool_ir(system, machine)
    assert ("@syscall" in text) == (machine == "aarch64")
    if "aarch64" not in text or host.detect().is_x86:
        llvm._parsed(text).verify()


def test_polling_instead_of_futex(kernel):
    """The pool of a system without futex, run here."""
    library = llvm.Library.load(llvm.compile_object(threads.pool_ir("other", ""), host.detect())).keep_forever()
    ctypes.CFUNCTYPE(None, ctypes.c_int32)(library.address("dlc_pool_set_threads"))(3)
    code = llvm.compile_object(KERNEL, host.detect())
    polling = llvm.Library.load(code, {"dlc_parallel": library.address("dlc_parallel")})
    for _ in range(3):
        assert (run(polling, 1000, 10)[0] == 1).all()
        time.sleep(0.002)
    ctypes.CFUNCTYPE(None, ctypes.c_int32)(library.address("dlc_pool_set_threads"))(1)
