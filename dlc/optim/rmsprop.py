"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable

import dlc
from dlc import Tensor
from dlc.optim.checks import fractions, not_negative
from dlc.optim.optimizer import Optimizer, ParamGroup


class RMSprop(Optimizer):
    """p -= lr * g / (sqrt(v) + eps) with v = alpha v + (1 - alpha) g^2 (Hinton's lecture 6e).

    `centered` subtracts the square of a running mean of g from v; `momentum` accumulates the steps.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
            "centered": centered, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options) -> None:
        not_negative("RMSprop", options, "lr", "eps", "weight_decay", "momentum")
        fractions("RMSprop", options, "alpha", 1)

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        names = ["square_avg"]
        if not group.is_zero("momentum"):
            names.append("momentum_buffer")
        if group["centered"]:
            names.append("grad_avg")
        return tuple(names)

    def scalars(self, group: ParamGroup, step: Tensor) -> dict[str, Tensor]:
        s = {name: group.scalar(name) for name in ("lr", "alpha", "eps", "weight_decay", "momentum")}
        return s | {"rate": 1.0 - group.scalar("alpha")}

    def update(self, group, p, grad, state, s):
        if not group.is_zero("weight_decay"):
            grad = grad + s["weight_decay"] * p
        v = s["alpha"] * state["square_avg"] + s["rate"] * (grad * grad)
        new, centred = {"square_avg": v}, v
        if group["centered"]:
            mean = new["grad_avg"] = state["grad_avg"] + s["rate"] * (grad - state["grad_avg"])
            centred = v - mean * mean
        direction = grad / (dlc.sqrt(centred) + s["eps"])
        if not group.is_zero("momentum"):
            direction = new["momentum_buffer"] = s["momentum"] * state["momentum_buffer"] + direction
        return p - s["lr"] * direction, new
