"""Compiling without Python's cycle collector.

The compiler makes some hundred thousand small objects, nearly all without cycles; the collector looks at all of them
again and again, for a third of the time. What is left to collect is collected afterwards, when it is due.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0  # threads that compile now
_was_on = False


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No automatic collections until the last thread has left. Leaves the collector as it was found."""
    global _inside, _was_on
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _was_on:
                gc.enable()
