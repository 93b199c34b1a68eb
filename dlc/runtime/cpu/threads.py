"""The thread pool that kernels call: `void dlc_parallel(ptr fn, ptr args, i64 n, i64 grain)`.

The pool is LLVM IR (`threads.ll`, which tells how it works), since kernels call it in the middle of native code and a
round trip through Python would cost more than most kernels.
"""

from __future__ import annotations

import ctypes
import platform
import signal
import sys
from typing import NamedTuple

from dlc.base import forks, texts
from dlc.runtime import cache
from dlc.runtime.cpu import host, llvm

MAX_THREADS = 1024
SPIN_NANOSECONDS = 300_000

_OPEN, _COUNT, _GENERATION = 0x8000, 0x7FFF, 0xFFFF0000


class _Pool(NamedTuple):
    symbols: dict[str, int]
    set_threads: ctypes._CFuncPtr
    reset: ctypes._CFuncPtr


_pool: _Pool | None = None
_threads: int | None = None
_lock = forks.lock()
_EXPORTS = ("dlc_parallel", "dlc_pool_set_threads", "dlc_pool_reset")


def pool_symbols() -> dict[str, int]:
    """Symbol name -> address, for `Library.load` of modules that declare `dlc_parallel`. Builds the pool at first."""
    return _the_pool().symbols


def get_num_threads() -> int:
    """How many threads a kernel may use, the calling one included."""
    return host.detect().threads if _threads is None else _threads


def set_num_threads(n: int) -> None:
    """Use `n` threads from the next kernel on; waits for a kernel that is running. Raises ValueError."""
    global _threads
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"the number of threads must be from 1 to {MAX_THREADS}, not {n}")
    _threads = n
    if _pool is not None:
        _pool.set_threads(n)


def _the_pool() -> _Pool:
    global _pool
    if _pool is None:
        with _lock:
            if _pool is None:
                _pool = _load()
    return _pool


def _load() -> _Pool:
    target = host.detect()
    text = pool_ir()
    key = llvm.object_key(text, target)
    library = _stored(key)
    if library is None:
        code = llvm.compile_object(text, target)
        cache.default().put(key, code)
        library = llvm.Library.load(code)
    library.keep_forever()
    parallel, change, reset = map(library.address, _EXPORTS)
    set_threads = ctypes.CFUNCTYPE(None, ctypes.c_int32)(change)
    set_threads(get_num_threads())
    return _Pool({"dlc_parallel": parallel}, set_threads, ctypes.CFUNCTYPE(None)(reset))


def _stored(key: str) -> llvm.Library | None:
    code = cache.default().get(key)
    try:
        return None if code is None else llvm.Library.load(code, exports=_EXPORTS)
    except llvm.LinkError:
        return None  # a damaged entry: compile again


@forks.in_child
def _after_fork_in_child() -> None:
    """The child has only the forking thread: forget the workers, and any job that another thread was running."""
    if _pool is not None:
        _pool.reset()


class _System(NamedTuple):
    """What differs between operating systems and processors: IR text, and numbers of the C library."""

    declarations: str
    pause: str
    sleep: str  # until `state` is no longer %seen_state, or a while; %slept (i64) is 0 only if `wake` counted it
    wake: str  # up to %count sleepers; %woke (i64) is how many
    clock_monotonic: int
    sig_setmask: int


_FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 128, 129
_FUTEX_SYSCALL = {"x86_64": 202, "aarch64": 98}
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


def _system(platform_name: str, machine: str) -> _System:
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    declare_pause, pause = _PAUSE.get(machine, ("", ""))
    darwin = platform_name == "darwin"
    if platform_name == "linux" and machine in _FUTEX_SYSCALL:
        call = f"call i64 (i64, ...) @syscall(i64 {_FUTEX_SYSCALL[machine]}, ptr @state"
        return _System(
            f"{declare_pause}\ndeclare i64 @syscall(i64, ...)",
            pause,
            f"%slept = {call}, i64 {_FUTEX_WAIT_PRIVATE}, i32 %seen_state, ptr null)",
            f"%woke = {call}, i64 {_FUTEX_WAKE_PRIVATE}, i32 %count)",
            clock_monotonic=1,
            sig_setmask=2,
        )
    return _System(
        f"{declare_pause}\ndeclare i32 @usleep(i32)",
        pause,
        "%polled = call i32 @usleep(i32 100)\n  %slept = add i64 0, -1",
        "%woke = add i64 0, 0",
        clock_monotonic=6 if darwin else 1,
        sig_setmask=3 if darwin else 2,
    )


def pool_ir(platform_name: str = sys.platform, machine: str | None = None) -> str:
    """The pool's module as LLVM IR text."""
    system = _system(platform_name, machine or platform.machine())
    # Workers take no signals, so that Ctrl-C interrupts the thread that waits for it; faults must stay deliverable.
    faults = "\n".join(
        f"  call i32 @sigdelset(ptr %blocked, i32 {int(getattr(signal, name))})"
        for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
        if hasattr(signal, name)
    )
    text = texts.section(
        __package__,
        "threads.ll",
        "pool",
        declarations=system.declarations,
        pause=system.pause,
        sleep=system.sleep,
        wake=system.wake,
        clock=system.clock_monotonic,
        setmask=system.sig_setmask,
        faults=faults,
        spin=SPIN_NANOSECONDS,
        open=_OPEN,
        not_open=~_OPEN,
        count=_COUNT,
        generation=_GENERATION - (1 << 32),
        next_generation=0x10000,
    )
    return text + "\n"
