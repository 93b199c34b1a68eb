"""Forks, threads that cannot be had, and exits: what is in the middle of something then must not be in the way."""

from __future__ import annotations

import ast
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlc
from dlc import nn
from dlc.base import forks, workers
from dlc.base.lazy import cached_property
from dlc.data import DataLoader
from dlc.frontend.core import eager, trace
from dlc.runtime import collector
from dlc.runtime.cpu import llvm

ROOT = Path(dlc.__file__).parent
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif("DLC_TEST_DEVICE" in os.environ, reason="CUDA does not survive a fork"),
]


def in_fork(check: Callable[[], None], seconds: int = 30) -> None:
    """Run `check` in the child of a fork, which is killed after a while."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        status = 1
        try:
            check()
            status = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class Elsewhere:
    """A thread that does `enter()` and stays there until the end of the with block."""

    def __init__(self, manager: Any):
        self.manager, self.inside, self.leave = manager, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        with self.manager:
            self.inside.set()
            self.leave.wait()

    def __enter__(self) -> None:
        self.thread.start()
        self.inside.wait()

    def __exit__(self, *error: object) -> None:
        self.leave.set()
        self.thread.join()


# --- every lock is known

MODULES = {"threading", "_thread", "queue", "concurrent.futures", "multiprocessing", "os"}
MAKES_LOCKS = {"Lock", "RLock", "Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "allocate_lock",
               "Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "ThreadPoolExecutor", "ProcessPoolExecutor",
               "Thread", "Timer", "Future", "register_at_fork"}  # fmt: skip
ALLOWED = {
    "base/forks.py": {"RLock", "register_at_fork"},
    "base/workers.py": {"ThreadPoolExecutor", "Future"},  # which a child does not touch
    "runtime/cpu/llvm.py": {"RLock", "Condition"},  # of a lock that is held over forks
    "runtime/collector.py": {"RLock"},  # likewise
}


def test_locks_are_made_in_one_place():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            made = set()
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in MODULES:
                made = {node.attr}
            elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
                made = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "functools":
                made = {alias.name for alias in node.names} & {"cached_property"}  # Python 3.11's holds a lock
            found = made & (MAKES_LOCKS | {"cached_property"}) - ALLOWED.get(name, set())
            wrong += [f"{name}:{node.lineno}: {each}" for each in found]
        if name in ("runtime/cpu/llvm.py", "runtime/collector.py"):
            assert text.count("RLock()") == text.count("forks.hold(threading.RLock()") == 1
    assert not wrong, wrong


def locks_of(value: Any, seen: set[int], depth: int = 0) -> list[Any]:
    """Locks in the attributes of our objects, modules and classes."""
    if id(value) in seen or depth > 6:
        return []
    seen.add(id(value))
    if isinstance(value, (type(threading.Lock()), type(threading.RLock()))):
        return [value]
    inside: list[Any] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, (list, tuple, set)):
        inside = list(value)
    elif isinstance(value, types.ModuleType):
        inside = list(vars(value).values()) if value.__name__.partition(".")[0] == "dlc" else []
    elif isinstance(value, threading.Condition) or type(value).__module__.partition(".")[0] == "dlc":
        slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
        inside = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    return [lock for item in inside for lock in locks_of(item, seen, depth + 1)]


def test_every_lock_that_there_is_survives_a_fork():
    """Each is held by another thread at the fork, if forks do not wait for it; the child can take all."""
    function, generator = dlc.jit(lambda x: x + 1), dlc.Generator(3)
    function(dlc.ones(3)).numpy()
    modules = [m for name, m in sys.modules.items() if name.partition(".")[0] == "dlc"]
    found = locks_of([*modules, function, generator], set())
    held_over = [llvm._lock, collector._lock]
    free = [lock for lock in found if not any(lock is h for h in held_over)]
    some = trace.execution, eager._cache_lock, generator._lock, function._lock
    assert set(map(id, some)) <= set(map(id, free))
    known = {id(r()) for r in forks._locks}
    assert [lock for lock in free if id(lock) not in known] == []

    class All:
        def __enter__(self):
            for lock in free:
                lock.acquire()

        def __exit__(self, *error):
            for lock in free:
                lock.release()

    def take() -> None:
        for lock in found:
            assert lock.acquire(timeout=1)
            lock.release()

    with Elsewhere(All()):
        in_fork(take)


def test_what_the_forking_thread_holds_it_goes_on_holding():
    with trace.execution, trace.execution:
        in_fork(lambda: (trace.execution.release(), trace.execution.release()))  # raises unless it is held twice


def test_a_child_has_no_locks_of_the_dead():
    for _ in range(100):
        dlc.Generator(0)
    gc.collect()
    before = len(forks._locks)
    dlc.Generator(0)
    gc.collect()
    assert len(forks._locks) == before


def test_cached_properties():
    class Thing:
        calls = 0

        @cached_property
        def value(self) -> int:
            """What it is."""
            Thing.calls += 1
            return 7

    thing = Thing()
    assert (thing.value, thing.value, Thing.calls, Thing.value.__doc__) == (7, 7, 1, "What it is.")
    del thing.value
    assert (thing.value, Thing.calls) == (7, 2)


# --- forks in the middle of things


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_of_a_child(was_on):
    """Another thread compiles at the fork: the child's collector is as it was before that."""
    if not was_on:
        gc.disable()
    try:
        with Elsewhere(collector.no_collection()):
            assert not gc.isenabled()

            def check() -> None:
                assert gc.isenabled() == was_on
                with collector.no_collection():
                    assert not gc.isenabled()
                assert gc.isenabled() == was_on

            in_fork(check)
            with collector.no_collection():  # this thread compiles, too: it goes on in the child

                def still_off() -> None:
                    assert not gc.isenabled() and collector._inside == 1

                in_fork(still_off)
    finally:
        gc.enable()


def test_a_fork_waits_for_code_generation():
    """A child must not inherit LLVM's own locks, nor options that only the other thread's module wanted."""
    times = []

    class Emission:
        def __enter__(self):
            self.context = llvm._emission("none")
            self.context.__enter__()

        def __exit__(self, *error):
            times.append(time.monotonic())
            self.context.__exit__(*error)

    elsewhere = Elsewhere(Emission())
    with elsewhere:
        threading.Timer(0.2, elsewhere.leave.set).start()

        def check() -> None:
            assert llvm._emissions == []

        in_fork(check)
        assert times
    with llvm._emission("none"):  # this thread's own is no reason to wait
        in_fork(lambda: None)


PROGRAM = """
import gc, os, signal, sys, threading, time
import dlc
seed = int(sys.argv[1])

def work(k):
    while True:
        k += 2
        dlc.jit(lambda x: dlc.sum(dlc.exp(x * float(k)) @ x.mT, axis=0) + k)(dlc.ones(20 + k % 7, 30)).numpy()

for k in range(2):
    threading.Thread(target=work, args=(k,), daemon=True).start()
for number in range(6):  # the first of them while the compiler itself is being imported
    time.sleep(0.01 + 0.07 * ((seed + number * 5) % 4))
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        if not gc.isenabled():
            os._exit(5)
        c = number + 0.5
        right = (dlc.jit(lambda x: (x * c + 1) @ x.mT)(dlc.ones(5, 6)).numpy() == (c + 1) * 6).all()
        right &= (dlc.ones(1000, 1000) * 2).numpy().sum() == 2e6
        os._exit(0 if right else 4)
    status = os.waitpid(pid, 0)[1]
    if status:
        print("child", number, os.waitstatus_to_exitcode(status), flush=True)
        os._exit(1)
os._exit(0)
"""


def script(program: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT.parent), *sys.path])
    return subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *args],
                          capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": path, "DLC_CACHE": "0", **environment})


@pytest.mark.parametrize("seed", range(2))
def test_forks_while_threads_compile(seed):
    done = script(PROGRAM, str(seed))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_forks_while_a_thread_computes():
    x = dlc.asarray(np.ones((600, 600), np.float32))
    stop = []

    def work() -> None:
        y = x
        while not stop:
            y = dlc.tanh(y @ x).realize()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(5):
            time.sleep(0.01 * number)

            def check() -> None:
                assert float(dlc.sum(dlc.ones(300, 300) @ dlc.ones(300, 300))) == 300.0**3

            in_fork(check)
    finally:
        stop.append(True)
        thread.join()


class Slow:
    """A dataset whose samples take a while."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> np.ndarray:
        time.sleep(0.005)
        return np.full(2, index)


def test_a_child_goes_on_with_an_epoch():
    """The threads that read ahead stay in the parent."""
    loader = DataLoader(Slow(), 4, num_workers=2)
    batches = iter(loader)
    begun = [next(batches).numpy()[0, 0] for _ in range(3)]

    def rest() -> None:
        assert [b.numpy()[0, 0] for b in batches] == list(range(12, 40, 4))
        assert len(list(loader)) == 10

    in_fork(rest)
    assert begun + [b.numpy()[0, 0] for b in batches] == list(range(0, 40, 4))


# --- no threads


def test_jobs_where_no_thread_starts(monkeypatch):
    threads: list[int] = []

    def run(value: int) -> int:
        threads.append(threading.get_ident())
        if value == 3:
            raise KeyError(value)
        return value * 2

    real, allowed = threading.Thread.start, [1]

    def start(thread: threading.Thread) -> None:
        if not allowed or not allowed.pop():
            raise RuntimeError("can't start new thread")
        real(thread)

    for count in (0, 1):
        allowed[:] = [1] * count
        monkeypatch.setattr(threading.Thread, "start", start)
        threads.clear()
        pool = workers.Workers(4, "test")
        jobs = [pool.submit(run, k) for k in range(8)]
        assert [job.result() for job in jobs if job is not jobs[3]] == [0, 2, 4, 8, 10, 12, 14]
        with pytest.raises(KeyError):
            jobs[3].result()
        pool.close()
        assert len(threads) == 8  # each once
        assert threading.get_ident() in threads


@pytest.mark.parametrize("allowed", [0, 1])
def test_compiling_where_no_thread_starts(allowed):
    """Neither LLVM's threads, nor the kernels' (which LLVM makes: they are allowed), nor a loader's."""
    program = f"""
import threading
real, left = threading.Thread.start, [{allowed}]
def start(thread):
    if not left[0]:
        raise RuntimeError("can't start new thread")
    left[0] -= 1
    real(thread)
threading.Thread.start = start
import numpy as np, dlc
from dlc.data import DataLoader
f = dlc.jit(lambda x: (dlc.softmax(x @ x.mT) if hasattr(dlc, "softmax") else dlc.exp(x @ x.mT)).sum())
f(dlc.ones(30, 40)).numpy()
assert (dlc.ones(3, 4) * 2 + 1).numpy().sum() == 36
assert len(list(DataLoader(np.arange(40), 4, num_workers=3))) == 10
assert dlc.jit(lambda x: x * 5, tune=True)(dlc.ones(3)).numpy().sum() == 15
"""
    done = script(program)
    assert done.returncode == 0, done.stderr


def test_no_thread_at_all():
    """The system refuses every thread, those of kernels too."""
    program = """
import os, resource
import numpy as np
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if not os.geteuid():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)  # root is not limited
import threading
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    raise SystemExit("threads start")
import dlc
assert (dlc.ones(1000, 1000) @ dlc.ones(1000, 1000)).numpy().max() == 1000
assert dlc.jit(lambda x: x @ x)(dlc.ones(300, 300)).numpy().max() == 300
print("right")
"""
    if not os.geteuid() and not os.access("/root", os.X_OK):
        pytest.skip("another user cannot import anything")
    done = script("import dlc, dlc.runtime.compile, dlc.runtime.tuning, llvmlite.binding\n" + program)
    if "threads start" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("the system does not limit threads")
    assert done.stdout == "right\n", done.stderr


@pytest.mark.parametrize("where", ["atexit", "atexit of a thread's work", "weakref.finalize", "__del__ at exit"])
def test_compiling_at_exit(where):
    program = """
import atexit, threading, weakref, numpy as np
import dlc
from dlc.data import DataLoader
x = dlc.asarray(np.arange(4.0, dtype=np.float32))
def late():
    print(dlc.jit(lambda a: a * 2 + 1)(x).numpy().tolist(), flush=True)
    print(dlc.jit(lambda a: dlc.sum(a @ a))(x).item(), (x + 3).numpy().tolist(), flush=True)
    print(len(list(DataLoader(np.arange(10), 5, num_workers=2))), flush=True)
""" + {
        "atexit": "atexit.register(late)",
        "atexit of a thread's work": "x2 = (x + 1).numpy(); atexit.register(late)",
        "weakref.finalize": "class K: pass\nk = K(); weakref.finalize(k, late)",
        "__del__ at exit": "class K:\n    def __del__(self): late()\n"
                           "k = K(); atexit.register(lambda: globals().pop('k'))",
    }[where]
    done = script(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[1.0, 3.0, 5.0, 7.0]\n14.0 [3.0, 4.0, 5.0, 6.0]\n2\n"


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.5])
def test_daemon_threads_that_compile_at_exit(delay):
    program = f"""
import threading, time
import dlc
def work(k):
    while True:
        k += 2
        dlc.jit(lambda x: dlc.sum(dlc.exp(x * float(k)) @ x.mT, axis=0) + k)(dlc.ones(20 + k % 7, 30)).numpy()
dlc.ones(3).numpy()
for k in range(2):
    threading.Thread(target=work, args=(k,), daemon=True).start()
time.sleep({delay})
"""
    done = script(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- generators of random numbers


def draws(generator: dlc.Generator) -> list[float]:
    return dlc.rand(5, generator=generator).numpy().tolist()


@pytest.mark.parametrize("copied", [
    copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g)), lambda g: copy.deepcopy([g, g])[1],
    *(lambda g, p=p: pickle.loads(pickle.dumps(g, p)) for p in range(pickle.HIGHEST_PROTOCOL)),
])  # fmt: skip
def test_generators_are_copied_and_pickled(copied):
    generator = dlc.Generator(5)
    draws(generator)
    other = copied(generator)
    third = copied(other)
    assert type(other) is dlc.Generator and other._lock is not generator._lock
    first = draws(generator)
    assert draws(generator) != first
    assert draws(other) == first  # a stream of its own, which goes on where the first one stood
    assert draws(third) == first
    jitted = dlc.jit(lambda: dlc.rand(5, generator=other))
    following = draws(third)
    assert jitted().numpy().tolist() == following
    other.manual_seed(5)
    assert draws(other) == draws(dlc.Generator(5))


class Noisy(nn.Module):
    """A layer with a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = dlc.Generator(11)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.drop(x)) + dlc.rand(4, generator=self.generator)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_modules_that_hold_a_generator(copied):
    model = Noisy().eval()
    x = dlc.ones(2, 4)
    model(x).numpy()
    other = copied(model)
    first, second = model(x).numpy(), model(x).numpy()
    assert (other(x).numpy() == first).all() and (other(x).numpy() == second).all()
    assert (first != second).any()


def drawn_in_a_process(generator: dlc.Generator, default: bool) -> list[float]:
    return dlc.rand(5).numpy().tolist() if default else draws(generator)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_generators_cross_processes(method):
    generator = dlc.Generator(9)
    draws(generator)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        found = pool.starmap(drawn_in_a_process, [(generator, False)] * 3, chunksize=1)
    assert found == [draws(generator)] * 3


def test_loaders_are_pickled():
    for loader in (DataLoader(np.arange(20), 4, shuffle=True, generator=np.random.default_rng(3)),
                   DataLoader(np.arange(20), 4, shuffle=True, seed=1, num_workers=2)):
        next(iter(loader))
        other = pickle.loads(pickle.dumps(loader))
        third = copy.deepcopy(loader)
        expected = [b.numpy().tolist() for b in loader]
        assert [b.numpy().tolist() for b in other] == expected
        assert [b.numpy().tolist() for b in third] == expected
