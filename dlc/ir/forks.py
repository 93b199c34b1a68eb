"""Locks that survive a fork. Every lock of the package is made here (`tests/test_forks.py` looks).

The child of a fork has one thread: a lock that another thread of the parent held would stay locked there for ever. So
either a lock is free in the child (`lock`: what it guards is changed by single steps, and is sound at any moment), or
the fork waits for it (`held_lock`: what it guards must not be seen half-made). What the forking thread itself holds, in
a signal handler or in a function that is being traced, it goes on holding in the child: all are reentrant.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

_locks: set[weakref.ref[Any]] = set()  # changed by single C calls only: no lock for the locks
_actions: list[Callable[[], None]] = []


def lock() -> Any:
    """A new RLock, which is free in the child of a fork."""
    made = threading.RLock()
    _locks.add(weakref.ref(made, _locks.discard))
    return made


def held_lock(settle: Callable[[], None] = lambda: None) -> Any:
    """A new RLock that is held over every fork. `settle` runs when it is held, to wait for what else must end first."""
    made = threading.RLock()

    def before() -> None:
        made.acquire()
        settle()

    os.register_at_fork(before=before, after_in_parent=made.release, after_in_child=made.release)
    return made


def in_child(action: Callable[[], None]) -> Callable[[], None]:
    """Decorator: run `action` in the child of every fork, when its locks are free."""
    _actions.append(action)
    return action


def _free_all() -> None:
    for reference in list(_locks):
        found = reference()
        if found is not None and not found._is_owned():
            found._at_fork_reinit()
    for action in _actions:
        action()


os.register_at_fork(after_in_child=_free_all)
