"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import dlc
from dlc import Tensor
from dlc.optim.checks import not_negative
from dlc.optim.optimizer import Optimizer, ParamGroup


class SGD(Optimizer):
    """p -= lr * d, where d = g + weight_decay * p, or with momentum the buffer b = momentum * b + (1 - dampening) * d.

    The first step starts the buffer with d itself. `nesterov` steps along d + momentum * b.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options) -> None:
        not_negative("SGD", options, "lr", "momentum", "weight_decay")
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return () if group.is_zero("momentum") else ("momentum_buffer",)

    def scalars(self, group: ParamGroup, step: Tensor) -> dict[str, Tensor]:
        s = {name: group.scalar(name) for name in ("lr", "momentum", "weight_decay")}
        if not group.is_zero("dampening"):
            s["gain"] = dlc.where(step == 1.0, 1.0, 1.0 - group.scalar("dampening"))
        return s

    def update(self, group, p, grad, state, s):
        if not group.is_zero("weight_decay"):
            grad = grad + s["weight_decay"] * p
        if group.is_zero("momentum"):
            return p - s["lr"] * grad, {}
        fresh = grad if group.is_zero("dampening") else s["gain"] * grad
        buffer = s["momentum"] * state["momentum_buffer"] + fresh
        direction = grad + s["momentum"] * buffer if group["nesterov"] else buffer
        return p - s["lr"] * direction, {"momentum_buffer": buffer}
