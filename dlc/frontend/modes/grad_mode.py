"""`no_grad`, `enable_grad`, `inference_mode`: whether gradients are recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from dlc.frontend.core.trace import state


class no_grad(contextlib.ContextDecorator):
    """Context and decorator: what is computed inside carries no gradients back."""

    _off = True

    def __new__(cls, function: Callable | None = None) -> Any:
        """With a function: `@no_grad` without parentheses."""
        return super().__new__(cls) if function is None else cls()(function)

    def __enter__(self) -> None:
        self._stack = [*getattr(self, "_stack", ()), state.no_grad]
        state.no_grad = self._off

    def __exit__(self, *exc) -> None:
        state.no_grad = self._stack.pop()


class enable_grad(no_grad):
    """Context and decorator: gradients again, inside `no_grad`."""

    _off = False


class inference_mode(no_grad):
    """PyTorch's other name of `no_grad`; `inference_mode(False)` is `enable_grad`."""

    def __new__(cls, mode: Callable | bool = True) -> Any:
        return super().__new__(cls, mode if callable(mode) else None)

    def __init__(self, mode: Callable | bool = True):
        self._off = mode is not False


def is_grad_enabled() -> bool:
    """Whether gradients are recorded here (no `no_grad` around)."""
    return not state.no_grad
