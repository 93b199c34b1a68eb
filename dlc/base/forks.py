"""Locks that survive a fork. Every lock of the package is made here (`tests/test_forks.py` looks).

The child of a fork has one thread: a lock that another thread of the parent held would stay locked there for ever. So
either a lock is free in the child (`lock`: what it guards is changed by single steps, and is sound at any moment), or
the fork waits for it (`hold`: what it guards must not be seen half-made). What the forking thread itself holds, in
a signal handler or in a function that is being traced, it goes on holding in the child: all are reentrant.
"""

from __future__ import annotations

import importlib._bootstrap
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

LONGEST_IMPORT_S = 10  # after that a fork does not wait any more: something else must be wrong

_locks: set[weakref.ref[Any]] = set()  # changed by single C calls only: no lock for the locks
_actions: list[Callable[[], None]] = []


def lock() -> Any:
    """A new RLock, which is free in the child of a fork."""
    made = threading.RLock()
    _locks.add(weakref.ref(made, _locks.discard))
    return made


def hold(held: Any, settle: Callable[[], None] = lambda: None) -> Any:
    """Hold an RLock over every fork; gives it back. `settle` runs when it is held, to wait for what else must end."""

    def before() -> None:
        held.acquire()
        settle()

    os.register_at_fork(before=before, after_in_parent=held.release, after_in_child=held.release)
    return held


def in_child(action: Callable[[], None]) -> Callable[[], None]:
    """Decorator: run `action` in the child of every fork, when its locks are free."""
    _actions.append(action)
    return action


def wait_for_imports() -> None:
    """Make forks wait until no other thread is importing a module of the package.

    Python has a lock for each module that is being imported, and the child of a fork does not get it free. The
    compiler is imported at the first compilation, by whatever thread comes first.
    """
    os.register_at_fork(before=_wait_for_imports)


def _wait_for_imports() -> None:
    end = time.monotonic() + LONGEST_IMPORT_S
    while _others_import() and time.monotonic() < end:
        time.sleep(0.001)


def _others_import() -> bool:
    found = getattr(importlib._bootstrap, "_module_locks", {})  # type: ignore[attr-defined]
    for name, reference in list(found.items()):
        if name.partition(".")[0] == __package__.partition(".")[0]:
            owner = getattr(reference(), "owner", None)
            if owner not in (None, threading.get_ident()):
                return True
    return False


def _free_all() -> None:
    for reference in list(_locks):
        found = reference()
        if found is not None and not found._is_owned():
            found._at_fork_reinit()
    for action in _actions:
        action()


os.register_at_fork(after_in_child=_free_all)
