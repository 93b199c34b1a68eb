"""Threads that work ahead. Where no thread can be had, the calling one does the work, at once.

That is so while the interpreter exits (`atexit`), and where the system has no more threads to give. In the child of a
fork, whose parent's threads are gone, it does what they had not finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class WorkerTask(Generic[T]):
    """A call that some thread makes; `result` waits for it."""

    def __init__(self, fn: Callable[..., T], args: tuple):
        self._call = fn, args
        self._unclaimed = [True]  # whoever pops it makes the call
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._ended: Future[None] = Future()
        self._pid = os.getpid()

    def run(self) -> None:
        """Make the call, unless another thread has begun to."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return
        self._make_call()
        self._ended.set_result(None)

    def result(self) -> T:
        """What the call gave, or raised."""
        if self._outcome is None:
            if os.getpid() == self._pid:
                self._ended.result()
            else:
                self._make_call()  # the thread that should have made it stayed in the parent
        value, error = self._outcome  # type: ignore[misc]
        if error is not None:
            raise error
        return value

    def _make_call(self) -> None:
        fn, args = self._call
        try:
            self._outcome = fn(*args), None
        except BaseException as error:  # also SystemExit in a worker: it is the caller's
            self._outcome = None, error


class Workers:
    """At most `count` threads that make calls. Close it when the results are there."""

    def __init__(self, count: int, name: str):
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._refused = False
        self._pid = os.getpid()

    def submit(self, fn: Callable[..., T], *args: Any) -> WorkerTask[T]:
        """Have `fn(*args)` called."""
        job = WorkerTask(fn, args)
        if not self._refused and os.getpid() == self._pid:
            try:
                self._pool.submit(job.run)
                return job
            except RuntimeError:  # no new threads; a thread that there is may have found the job in the queue
                self._refused = True
        job.run()
        return job

    def close(self) -> None:
        """Forget the calls that were not begun, and wait for the others."""
        if os.getpid() == self._pid:
            self._pool.shutdown(wait=True, cancel_futures=True)
