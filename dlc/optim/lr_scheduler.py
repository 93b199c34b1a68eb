"""Learning rate schedules: each sets `group['lr']` of an optimizer from the number of `step()` calls so far.

The value is a closed formula of the step and of the learning rates that the groups had at the start, so a schedule
that is resumed, or switched to late, gives the same numbers. It is written into the optimizer's cell: a compiled step
sees the new value and is not compiled again. Call `step()` outside jit.
"""

from __future__ import annotations

import bisect
import copy
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dlc import Tensor, TraceError
from dlc.base.errors import kind_of
from dlc.frontend.core.location import Located
from dlc.optim.optimizer import Optimizer, ParamGroup


class LRScheduler(Located):
    """Base class: `factor(step)` is what the starting learning rates are multiplied by, unless `rate` says otherwise.

    `last_epoch` is the step to continue after; -1 starts. The base is a group's 'initial_lr', which the first schedule
    of an optimizer sets to the present learning rate.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = optimizer
        for k, group in enumerate(_groups(self, optimizer)):
            if last_epoch == -1:
                group.setdefault("initial_lr", float(group["lr"]))  # one made before this one may have changed 'lr'
            elif "initial_lr" not in group:
                raise KeyError(f"{type(self).__name__}: to continue after {last_epoch}, group {k} needs 'initial_lr'")
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch + 1
        self._write()

    def factor(self, step: int) -> float:
        """What the base learning rates are multiplied by at `step`, counted from 0."""
        raise NotImplementedError

    def rate(self, step: int, k: int) -> float:
        """The learning rate of group `k` at `step`."""
        return self.base_lrs[k] * self.factor(step)

    def step(self) -> None:
        """Go to the next step. Raises TraceError inside jit, where it would happen once and never again."""
        self._check_outside()
        self.last_epoch += 1
        self._write()

    def get_last_lr(self) -> list[float]:
        """The learning rates of the groups, as last set."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """The schedule's position and settings, as they are now."""
        return copy.deepcopy({name: v for name, v in vars(self).items() if name != "optimizer" and not callable(v)})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, and set the learning rates it had. Raises ValueError where it is none of such a
        schedule; nothing is changed then.
        """
        self._check_state(state_dict)
        self._restore(state_dict)
        self._write()

    def _check_state(self, given: Any) -> None:
        lacks = [name for name in self.state_dict() if not isinstance(given, Mapping) or name not in given]
        if lacks:
            raise ValueError(f"{type(self).__name__}: no state_dict of such a schedule: it lacks {', '.join(lacks)}")

    def _restore(self, given: Mapping[str, Any]) -> None:
        """Take the position and settings from a state that was checked."""
        vars(self).update({name: copy.deepcopy(given[name]) for name in self.state_dict()})

    def _write(self) -> None:
        self._last_lr = [self.rate(self.last_epoch, k) for k in range(len(self.base_lrs))]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def _check_outside(self) -> None:
        if isinstance(self.optimizer.param_groups[0]["lr"], Tensor):
            raise TraceError(
                f"{type(self).__name__}.step() inside a traced function would run once, while tracing: "
                "call it after the jitted step"
            )


def _groups(schedule: LRScheduler, optimizer: Any) -> list[ParamGroup]:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(schedule).__name__}: needs an Optimizer, got {kind_of(optimizer)}")
    return optimizer.param_groups


def _positive(schedule: LRScheduler, name: str, steps: Any) -> int:
    """A number of steps. Raises ValueError unless it is at least 1."""
    if not isinstance(steps, numbers.Real) or steps < 1:
        raise ValueError(f"{type(schedule).__name__}: {name} is a number of steps, at least 1, not {steps!r}")
    return steps


class LambdaLR(LRScheduler):
    """Base rate times `lr_lambda(step)`; one function, or a list with one for each group."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable | Sequence[Callable], last_epoch: int = -1):
        count = len(_groups(self, optimizer))
        self._functions = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        if len(self._functions) != count:
            raise ValueError(f"LambdaLR: {len(self._functions)} functions for {count} parameter groups")
        if not all(map(callable, self._functions)):
            raise TypeError(f"LambdaLR: lr_lambda is a function or a list of functions, not {lr_lambda!r}")
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, k: int) -> float:
        return self.base_lrs[k] * self._functions[k](step)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "_functions"}


class StepLR(LRScheduler):
    """Times `gamma` every `step_size` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = _positive(self, "step_size", step_size), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)


class MultiStepLR(LRScheduler):
    """Times `gamma` at each of the steps `milestones`."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1):
        if not isinstance(milestones, Iterable):
            raise TypeError(f"MultiStepLR: milestones is a list of steps, not {milestones!r}")
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma ** bisect.bisect_right(self.milestones, step)


class ExponentialLR(LRScheduler):
    """Times `gamma` every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self.gamma**step


class ConstantLR(LRScheduler):
    """Times `factor` for the first `total_iters` steps."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3.0, total_iters: int = 5, last_epoch: int = -1
    ):
        self._factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        return self._factor if step < self.total_iters else 1.0


class LinearLR(LRScheduler):
    """Times a factor that goes linearly from `start_factor` to `end_factor` in `total_iters` steps: a warm-up."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3.0, end_factor: float = 1.0, total_iters: int = 5,
        last_epoch: int = -1,
    ):  # fmt: skip
        if not 0.0 < start_factor <= 1.0 or not 0.0 <= end_factor <= 1.0:
            raise ValueError(f"LinearLR: start_factor {start_factor} is in (0, 1], end_factor {end_factor} in [0, 1]")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _positive(self, "total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def factor(self, step: int) -> float:
        done = min(step, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * done


class CosineAnnealingLR(LRScheduler):
    """eta_min + (base - eta_min) (1 + cos(pi step / T_max)) / 2 (Loshchilov and Hutter 2016, arXiv:1608.03983)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):  # noqa: N803
        self.T_max, self.eta_min = _positive(self, "T_max", T_max), eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, step: int, k: int) -> float:
        return self.eta_min + (self.base_lrs[k] - self.eta_min) * (1.0 + math.cos(math.pi * step / self.T_max)) / 2.0


class OneCycleLR(LRScheduler):
    """One rise to `max_lr` and one long fall (Smith and Topin 2017, arXiv:1708.07120); momentum goes the other way.

    From max_lr / div_factor up to max_lr in the first `pct_start` of `total_steps` (or epochs * steps_per_epoch), then
    down to max_lr / div_factor / final_div_factor. `cycle_momentum` moves 'momentum', or the first of 'betas', between
    max_momentum and base_momentum. `max_lr` may be a list with one value for each group.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True, base_momentum: float = 0.85,
        max_momentum: float = 0.95, div_factor: float = 25.0, final_div_factor: float = 1e4,
        three_phase: bool = False, last_epoch: int = -1,
    ):  # fmt: skip
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1 or not 0.0 <= pct_start <= 1.0:
            raise ValueError(f"OneCycleLR: total_steps {total_steps} must be positive, pct_start {pct_start} in [0, 1]")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
        count = len(_groups(self, optimizer))
        self.max_lrs = list(max_lr) if isinstance(max_lr, (list, tuple)) else [max_lr] * count
        if len(self.max_lrs) != count:
            raise ValueError(f"OneCycleLR: {len(self.max_lrs)} values of max_lr for {count} parameter groups")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self.base_momentum, self.max_momentum = base_momentum, max_momentum
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        # (last step, value at the start, value at the end) of each phase
        peak = pct_start * total_steps - 1
        end = total_steps - 1
        if three_phase:
            self.phases = [(peak, "low", "high"), (2 * peak, "high", "low"), (end, "low", "final")]
        else:
            self.phases = [(peak, "low", "high"), (end, "high", "final")]
        if cycle_momentum and not all("momentum" in g or "betas" in g for g in optimizer.param_groups):
            raise ValueError("OneCycleLR: the optimizer has neither momentum nor betas; give cycle_momentum=False")
        if cycle_momentum and any(g.get("momentum") == 0 and "betas" not in g for g in optimizer.param_groups):
            raise ValueError("OneCycleLR: the optimizer was made without momentum; give cycle_momentum=False")
        super().__init__(optimizer, last_epoch)

    def step(self) -> None:
        if self.last_epoch + 1 > self.total_steps:
            raise ValueError(f"OneCycleLR: step {self.last_epoch + 1} is beyond the total of {self.total_steps}")
        super().step()

    def rate(self, step: int, k: int) -> float:
        low = self.max_lrs[k] / self.div_factor
        return self._at(step, {"low": low, "high": self.max_lrs[k], "final": low / self.final_div_factor})

    def _at(self, step: int, values: dict[str, float]) -> float:
        start = 0.0
        for k, (end, here, there) in enumerate(self.phases):
            if step <= end or k == len(self.phases) - 1:
                share = (step - start) / (end - start) if end != start else 1.0
                if self.anneal_strategy == "cos":
                    return values[there] + (values[here] - values[there]) / 2.0 * (1.0 + math.cos(math.pi * share))
                return (values[there] - values[here]) * share + values[here]
            start = end
        raise AssertionError("the last phase takes every step")

    def _write(self) -> None:
        super()._write()
        if not self.cycle_momentum:
            return
        high, low = self.max_momentum, self.base_momentum
        momentum = self._at(self.last_epoch, {"low": high, "high": low, "final": high})
        for group in self.optimizer.param_groups:
            _set_momentum(group, momentum)


def _set_momentum(group: ParamGroup, momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """Several schedules of one optimizer, the next one from each of `milestones` on, each counting from 0."""

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ):
        _groups(self, optimizer)
        if not all(isinstance(s, LRScheduler) for s in schedulers):
            raise TypeError(f"SequentialLR: schedulers is a list of schedules, not {schedulers!r}")
        if not schedulers or len(milestones) != len(schedulers) - 1:
            counts = f"{len(schedulers)} schedulers and {len(milestones)} milestones"
            raise ValueError(f"SequentialLR: {counts}; there is one milestone less")
        if any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError("SequentialLR: a scheduler belongs to another optimizer")
        if list(milestones) != sorted(milestones):
            raise ValueError(f"SequentialLR: milestones {list(milestones)} are not in order")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer, last_epoch)

    def _write(self) -> None:
        k = bisect.bisect_right(self.milestones, self.last_epoch)
        active = self.schedulers[k]
        active.last_epoch = self.last_epoch - (self.milestones[k - 1] if k else 0)
        active._write()
        self._last_lr = active.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        own = {name: v for name, v in vars(self).items() if name not in ("optimizer", "schedulers")}
        return copy.deepcopy(own) | {"schedulers": [s.state_dict() for s in self.schedulers]}

    def _check_state(self, given: Any) -> None:
        super()._check_state(given)
        states = given["schedulers"]
        if not isinstance(states, Sequence) or len(states) != len(self.schedulers):
            count = len(states) if isinstance(states, Sequence) else kind_of(states)
            raise ValueError(f"SequentialLR: {count} saved schedulers for {len(self.schedulers)}")
        for scheduler, state in zip(self.schedulers, states, strict=True):
            scheduler._check_state(state)

    def _restore(self, given: Mapping[str, Any]) -> None:
        schedulers = self.schedulers
        super()._restore(given)
        self.schedulers = schedulers
        for scheduler, state in zip(schedulers, given["schedulers"], strict=True):
            scheduler._restore(state)
