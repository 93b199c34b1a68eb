"""What environment variables ask for: one reader for each form, so that all of them take the same spellings.

A value that has none of the accepted forms is a SettingError that names the variable, never a guess. A variable that
is empty or blank is as one that is not set.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

from dlc.base.errors import DlcError

_SWITCH = {"1": True, "on": True, "true": True, "yes": True, "0": False, "off": False, "false": False, "no": False}
_DIGITS = re.compile(r"[0-9]{1,4000}")  # `str.isdigit` also takes "²", and `int` no more than 4300 digits


class SettingError(DlcError, ValueError):
    """An environment variable whose value has none of the forms that it may have. The message names it."""


def text(name: str) -> str:
    """The value of a variable without blanks around it; "" where it is not set."""
    return os.environ.get(name, "").strip()


def switch(name: str, default: bool = False) -> bool:
    """1, on, true, yes or 0, off, false, no, in any case."""
    value = text(name)
    if not value:
        return default
    found = _SWITCH.get(value.lower())
    if found is None:
        raise SettingError(f"{name}={shown(value)} is neither on nor off; expected 1 or 0")
    return found


def whole_number(name: str, least: int, what: str) -> int | None:
    """A number of at least `least` in the digits 0 to 9; None where it is not set. `what` names the kind expected."""
    value = text(name)
    if not value:
        return None
    if not _DIGITS.fullmatch(value) or int(value) < least:
        raise SettingError(f"{name}={shown(value)} is not {what}")
    return int(value)


def folder(name: str) -> Path | None:
    """A folder, with `~` and `~user` for home directories; None where it is not set."""
    value = text(name)
    if not value:
        return None
    found = _expanded(value)
    if found is None:
        raise SettingError(f"{name}={shown(value)}: there is no home directory {value.partition('/')[0]}")
    return found


def cache_home() -> Path | None:
    """The folder of the user's caches: `$XDG_CACHE_HOME`, else `~/.cache`; None where there is no home directory.

    Relative paths in `XDG_CACHE_HOME` are ignored, as the XDG Base Directory Specification demands.
    """
    given = _expanded(text("XDG_CACHE_HOME"))
    if given is not None and given.is_absolute():
        return given
    home = _home()
    return None if home is None else home / ".cache"


def shown(value: str) -> str:
    """A value for a message: not all of it if it is long."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


def _home() -> Path | None:
    """`$HOME`; where that is empty or no absolute path, what the system says of the user, or None."""
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:  # a user without a name, as in many containers
            return None
    return Path(home) if os.path.isabs(home) else None


def _expanded(value: str) -> Path | None:
    """A path without `~`, or None where there is no such home directory."""
    user, _, rest = value.partition("/")
    if not user.startswith("~"):
        return Path(value)
    if user == "~":
        home = _home()
    else:
        try:
            home = Path(pwd.getpwnam(user[1:]).pw_dir)
        except KeyError:
            return None
    return None if home is None else home / rest.lstrip("/")
