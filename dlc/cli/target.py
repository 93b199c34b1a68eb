"""TARGET on the command line: `file.py:function` or `module:function`, and the arguments to trace it with.

The file says what arguments are typical, in one of three ways, looked for in this order:

    train_step.example_args = (x, y)                  an attribute: a tuple, or a function that makes one
    def example_args_train_step(): return x, y        a function for this function
    def example_args(): return x, y                   a function for all functions of the file

A tuple or list holds positional arguments, a dict keyword arguments. A function without parameters needs none of this.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import dlc
from dlc.cli.errors import CommandError
from dlc.frontend.jit.function import JitFunction
from dlc.frontend.jit.lowered import Lowered


class Target(NamedTuple):
    """A function to compile and the arguments to do it with."""

    function: JitFunction
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def lower(self) -> Lowered:
        """The function traced for these arguments; nothing is compiled."""
        with blamed(self.function.name):
            return self.function.lower(*self.args, **self.kwargs)


def find(text: str) -> Target:
    """The target that `text` names. Raises CommandError saying what is missing."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise CommandError(f"{text!r} is no target: write file.py:function or module:function")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"{place} has no {name!r}{_suggestion(module)}")
        found = getattr(found, part)
    if not callable(found) or inspect.isclass(found):
        raise CommandError(f"{text} is a {type(found).__name__}, not a function")
    try:
        function = found if isinstance(found, JitFunction) else dlc.jit(found)
    except TypeError as error:
        raise CommandError(str(error).partition("\n")[0]) from None
    return Target(function, *_arguments(module, place, name.rpartition(".")[2], found))


def _suggestion(module: ModuleType) -> str:
    own = [k for k, v in vars(module).items() if isinstance(v, JitFunction)]
    return f"; its jitted functions are {', '.join(own)}" if own else ""


def _module_of_file(path: Path) -> ModuleType:
    """Import a file as `python -m` would: under its dotted name if it is part of a package."""
    if not path.is_file():
        raise CommandError(f"no file {path}")
    path = path.resolve()
    root, name = path.parent, path.stem
    while (root / "__init__.py").exists():
        root, name = root.parent, f"{root.name}.{name}"
    sys.path.insert(0, str(root))
    if "." in name:
        return _module(name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with blamed(str(path)):
        spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise CommandError(f"no module {name!r} (for a file, write its path with .py)")
    with blamed(name):
        return importlib.import_module(name)


def _arguments(module: ModuleType, place: str, name: str, function: Callable) -> tuple[tuple[Any, ...], dict[str, Any]]:
    hook = getattr(function, "example_args", None)
    label = f"{name}.example_args"
    if hook is None:
        label = f"example_args_{name}"
        hook = getattr(module, label, None)
    if hook is None:
        if _has_no_parameters(function):
            return (), {}
        label = "example_args"
        hook = getattr(module, label, None)
    if hook is None:
        raise CommandError(
            f"{place} does not say what arguments {name} takes: define example_args_{name}() or example_args() "
            f"there, which returns a tuple of them"
        )
    if callable(hook):
        with blamed(f"{place}: {label}()"):
            hook = hook()
    if isinstance(hook, dict):
        return (), hook
    if not isinstance(hook, (tuple, list)):
        raise CommandError(f"{place}: {label} is a {type(hook).__name__}, not a tuple of arguments or a dict of them")
    return tuple(hook), {}


def _has_no_parameters(function: Callable) -> bool:
    try:
        return not inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Errors of the user's code as one message that names the user's line."""
    try:
        yield
    except CommandError:
        raise
    except dlc.DlcError as error:
        raise CommandError(f"{what}: {error}") from None
    except Exception as error:
        raise CommandError(f"{what}: {type(error).__name__}: {error}{_user_line(error)}") from None


def _user_line(error: Exception) -> str:
    if isinstance(error, SyntaxError) or "\n  at " in str(error):
        return ""  # it says where
    package = str(Path(dlc.__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((package, "<frozen"))]
    return f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""
