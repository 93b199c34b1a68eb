"""Compiling without Python's cycle collector.

The compiler makes some hundred thousand small objects, nearly all without cycles; the collector looks at all of them
again and again, for a third of the time. What is left to collect is collected afterwards, when it is due.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

from dlc.base import forks


class _Own(threading.local):
    depth = 0  # of this thread in `no_collection`


_own = _Own()
_lock = forks.hold(threading.RLock())
_inside = 0  # threads that compile now
_was_on = False


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No automatic collections until the last thread has left. Leaves the collector as it was found."""
    global _inside, _was_on
    with _lock:
        _inside += 1
        _own.depth += 1
        if _inside == 1:
            _was_on = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            _own.depth -= 1
            if not _inside and _was_on:
                gc.enable()


@forks.in_child
def _only_this_thread() -> None:
    """Of the threads that compiled in the parent, the child has at most this one."""
    global _inside
    if _inside and not _own.depth and _was_on:
        gc.enable()
    _inside = _own.depth
