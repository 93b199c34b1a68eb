"""Gradient clipping. Both functions change `.grad` of the parameters and work inside jit."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import dlc
from dlc import Tensor
from dlc.base.errors import kind_of
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import narrow, widen


@functools.partial(user_errors, operation=False)
def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients by one factor so that their common norm is at most `max_norm`; returns the norm before.

    The norm is that of all gradients as one vector, in float32 or wider; `norm_type` may be math.inf. As in PyTorch the
    factor is max_norm / (norm + 1e-6) where that is below 1.
    """
    params = _with_grad(parameters)
    if not params:
        return dlc.zeros(())
    grads = [widen(p.grad)[0] for p in params]
    if norm_type == math.inf:
        total = _reduce(dlc.maximum, [dlc.max(dlc.abs(g)) for g in grads])
    elif norm_type == 2.0:
        total = dlc.sqrt(_reduce(dlc.add, [dlc.sum(g * g) for g in grads]))
    elif norm_type > 0:
        total = _reduce(dlc.add, [dlc.sum(dlc.abs(g) ** norm_type) for g in grads]) ** (1.0 / norm_type)
    else:
        raise ValueError(f"clip_grad_norm_: norm_type {norm_type} is not positive")
    factor = dlc.minimum(max_norm / (total + 1e-6), 1.0)
    for p, g in zip(params, grads, strict=True):
        p.grad = narrow(g * narrow(factor, g.dtype), p.grad.dtype)
    return total


@functools.partial(user_errors, operation=False)
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]."""
    for p in _with_grad(parameters):
        p.grad = dlc.clip(p.grad, -clip_value, clip_value)


def _with_grad(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in params:
        if not isinstance(p, Tensor):
            raise TypeError(f"gradients are clipped of Tensors, such as model.parameters(), not of a {kind_of(p)}")
    return [p for p in params if p.grad is not None]


def _reduce(combine, values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = combine(total, value)
    return total
