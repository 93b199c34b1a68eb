"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable

import dlc
from dlc import Tensor
from dlc.optim.checks import fractions, not_negative
from dlc.optim.optimizer import Optimizer, ParamGroup


class Adam(Optimizer):
    """Adam (Kingma and Ba 2014, arXiv:1412.6980); `weight_decay` is added to the gradient.

    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps). `amsgrad`
    takes the largest v so far (Reddi et al. 2018).
    """

    _decoupled = False

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, defaults)

    def check(self, options) -> None:
        not_negative(self._name, options, "lr", "eps", "weight_decay")
        fractions(self._name, options, "betas", 2)

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def scalars(self, group: ParamGroup, step: Tensor) -> dict[str, Tensor]:
        lr, beta1, beta2 = group.scalar("lr"), group.scalar("betas", 0), group.scalar("betas", 1)
        weight_decay = group.scalar("weight_decay")
        return {
            "rate1": 1.0 - beta1,
            "beta2": beta2,
            "rate2": 1.0 - beta2,
            "step_size": lr / (1.0 - beta1**step),
            "v_scale": 1.0 / dlc.sqrt(1.0 - beta2**step),
            "eps": group.scalar("eps"),
            "decay": 1.0 - lr * weight_decay if self._decoupled else weight_decay,
        }

    def update(self, group, p, grad, state, s):
        if not group.is_zero("weight_decay"):
            if self._decoupled:
                p = p * s["decay"]
            else:
                grad = grad + s["decay"] * p
        m = state["exp_avg"] + s["rate1"] * (grad - state["exp_avg"])
        v = s["beta2"] * state["exp_avg_sq"] + s["rate2"] * (grad * grad)
        new = {"exp_avg": m, "exp_avg_sq": v}
        if group["amsgrad"]:
            v = new["max_exp_avg_sq"] = dlc.maximum(state["max_exp_avg_sq"], v)
        return p - s["step_size"] * (m / (dlc.sqrt(v) * s["v_scale"] + s["eps"])), new


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101): p *= 1 - lr * weight_decay."""

    _decoupled = True

    def __init__(
        self, params: Iterable, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
