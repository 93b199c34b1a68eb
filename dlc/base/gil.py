"""dlc runs on CPython with its global interpreter lock only; importing this says so where there is none.

Which memory may be written in place follows from reference counts (`frontend/jit/compiled.py`), and the free lists of
the allocator and many tables are changed by single steps of the interpreter. A free-threaded build keeps neither
exactly (counts of objects that several threads share are split, and some objects are not counted at all), also when
its lock is switched on.
"""

from __future__ import annotations

import sys
import sysconfig

if sysconfig.get_config_var("Py_GIL_DISABLED") or not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        f"dlc needs Python's global interpreter lock, and this is a free-threaded build of Python "
        f"{sys.version_info.major}.{sys.version_info.minor}: use the ordinary one"
    )
