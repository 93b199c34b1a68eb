"""What all optimizers share: parameter groups, hyperparameters in cells, step counts, saving and loading.

Every number that an update uses is read from a 0-d float64 Tensor, so that changing it (a schedule, or
`group['lr'] = ...`) changes an input of a compiled step and never recompiles it. State is made when the optimizer is,
and updated through `assign`: under jit it is donated and updated in place. The scalar arithmetic (bias correction) is
done once a group in float64 on 0-d Tensors; what is left for each parameter is elementwise in (parameter, gradient,
state) and a few scalars.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

import dlc
from dlc import Tensor, TraceError
from dlc.base.errors import kind_of
from dlc.frontend.core.location import Located
from dlc.frontend.core.trace import attribute_changed
from dlc.nn.functional.precision import narrow
from dlc.nn.module import forget_grad
from dlc.nn.state_dict import value_of


class ParamGroup(Located, MutableMapping):
    """Parameters that share hyperparameters; a dict as far as its users can tell.

    Reading a number gives a float; inside a traced function it gives the 0-d Tensor that holds it.
    """

    reports_changes = ("_values", "_cells", "_is_zero", "missed", "has_missed")

    def __init__(self, owner: Optimizer, number: int, params: list[Tensor], options: dict[str, Any]):
        self._owner, self._number = owner, number
        self._values: dict[str, Any] = {"params": params}
        self._cells: dict[str, tuple[Tensor, ...]] = {}
        self._is_zero: dict[str, bool] = {}
        for name, value in options.items():
            held = _numbers(value)
            if held is None:
                self._values[name] = value
            else:
                # keeps the place among the keys, and whether it is a tuple
                self._values[name] = tuple if isinstance(value, (list, tuple)) else type(value)
                self._cells[name] = tuple(Tensor(np.array(v, np.float64)) for v in held)
                self._is_zero[name] = all(v == 0 for v in held)
        # where the counting of steps stands: the group's count, and for each parameter how many of them passed it by
        self.steps = Tensor(np.zeros((), np.float64))
        self.missed = [Tensor(np.zeros((), np.float64)) for _ in params]
        self.has_missed = [False] * len(params)

    def scalar(self, name: str, k: int = 0) -> Tensor:
        """The 0-d float64 cell of a hyperparameter, or of its `k`-th number."""
        return self._cells[name][k]

    def is_zero(self, name: str) -> bool:
        """Whether a hyperparameter is 0, so that its term is left out; a change of that traces compiled steps again."""
        return self._is_zero[name]

    def __getitem__(self, name: str) -> Any:
        if name not in self._cells:
            return self._values[name]
        values = tuple(_read(cell) for cell in self._cells[name])
        return values if issubclass(self._values[name], tuple) else values[0]

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "params":
            raise KeyError("the parameters of a group cannot be replaced; make a new optimizer or add_param_group")
        if name in self._cells:
            self._assign(name, value)
            return
        old = self._values.get(name)
        self._values[name] = value
        if old is not value:
            attribute_changed("_values")
        if name in self._owner.defaults and old != value:
            self._owner.make_state(self)

    def _assign(self, name: str, value: Any) -> None:
        cells = self._cells[name]
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if len(values) != len(cells):
            raise ValueError(f"{type(self._owner).__name__}: {name} takes {len(cells)} numbers, got {value!r}")
        if not all(isinstance(v, (numbers.Real, Tensor)) and (isinstance(v, Tensor) or v == v) for v in values):
            raise TypeError(f"{type(self._owner).__name__}: {name} is {value!r}, it must be a number")
        for cell, v in zip(cells, values, strict=True):
            cell.assign(dlc.astype(v, dlc.float64) if isinstance(v, Tensor) else np.array(v, np.float64))
        is_zero = all(not isinstance(v, Tensor) and v == 0 for v in values)
        if is_zero != self._is_zero[name]:
            attribute_changed("_is_zero")
            self._is_zero[name] = is_zero
            self._owner.make_state(self)

    def __delitem__(self, name: str) -> None:
        if name == "params" or name in self._owner.defaults:
            raise KeyError(f"{name!r} belongs to the group")
        del self._values[name]
        attribute_changed("_values")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        rows = [f"    {name}: {self[name]}" for name in self if name != "params"]
        return "\n".join([f"Parameter Group {self._number}", *rows])

    def count_step(self) -> list[Tensor | None]:
        """Count one step for the parameters that have a gradient; their counts (0-d float64), None for the others.

        One count serves the whole group. A parameter that was ever passed by subtracts what it missed.
        """
        active = [p.grad is not None for p in self["params"]]
        if not any(active):
            return [None] * len(active)
        steps = self.steps + 1.0
        self.steps.assign(steps)
        counts: list[Tensor | None] = []
        for k, on in enumerate(active):
            if not on:
                self.missed[k].assign(self.missed[k] + 1.0)
                self._mark_missed(k)
            counts.append(None if not on else steps - self.missed[k] if self.has_missed[k] else steps)
        return counts

    def _mark_missed(self, k: int) -> None:
        if not self.has_missed[k]:
            self.has_missed[k] = True
            attribute_changed("has_missed")

    def set_counts(self, counts: list[float]) -> None:
        """Continue from the given step counts."""
        most = max(counts, default=0.0)
        self.steps.assign(np.array(most, np.float64))
        for k, count in enumerate(counts):
            self.missed[k].assign(np.array(most - count, np.float64))
            if most != count:
                self._mark_missed(k)


def _numbers(value: Any) -> tuple | None:
    """The numbers in a hyperparameter, or None for a flag or anything else."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    if not values or any(isinstance(v, bool) or not isinstance(v, (int, float, Tensor)) for v in values):
        return None
    return tuple(float(v) for v in values)


def _read(cell: Tensor) -> float | Tensor:
    try:
        return cell.item()
    except TraceError:
        return cell


class Optimizer(Located):
    """Base class. A subclass gives `state_names`, and `update`, which steps one parameter.

    `params` is an iterable of Tensors, or of dicts {'params': ..., 'lr': ..., ...} with their own hyperparameters.
    """

    reports_changes = ("param_groups", "state")

    def __init__(self, params: Iterable[Tensor] | Iterable[Mapping[str, Any]], defaults: dict[str, Any]):
        self.defaults = defaults
        self.param_groups: list[ParamGroup] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        if isinstance(params, (Tensor, Mapping)):
            raise TypeError(f"{self._name}: params is an iterable of Tensors or dicts, not one {kind_of(params)}")
        if not isinstance(params, Iterable):
            raise TypeError(f"{self._name}: params is an iterable of Tensors or dicts, such as model.parameters(); "
                            f"got {kind_of(params)}")
        groups = list(params)
        if not groups:
            raise ValueError(f"{self._name}: got an empty list of parameters")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    # -- what subclasses define -------------------------------------------------------------------------------------

    def state_names(self, group: ParamGroup) -> tuple[str, ...]:
        """Names of the state Tensors of one parameter, each of the parameter's shape and dtype, starting at zero."""
        raise NotImplementedError

    def scalars(self, group: ParamGroup, step: Tensor) -> dict[str, Tensor]:
        """0-d float64 values of one step that the updates need; `step` counts from 1."""
        raise NotImplementedError

    def update(
        self, group: ParamGroup, p: Tensor, grad: Tensor, state: dict[str, Tensor], s: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(new parameter, new state); all operands, and the scalars `s`, have the dtype to compute in."""
        raise NotImplementedError

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise ValueError for a hyperparameter that makes no sense."""

    # -- use --------------------------------------------------------------------------------------------------------

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with hyperparameters of their own; what `group` leaves out are the optimizer's defaults."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{self._name}: a parameter group is a dict with 'params', not {group!r}")
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        for k, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{self._name}: parameter {k} is a {kind_of(p)}, not a Tensor")
            if p in self.state or any(p is q for q in params[:k]):
                raise ValueError(f"{self._name}: parameter {k} of shape {tuple(p.shape)} appears twice")
        options = self.defaults | {name: value for name, value in group.items() if name != "params"}
        self.check(options)
        made = ParamGroup(self, len(self.param_groups), params, options)
        self.param_groups.append(made)
        self.make_state(made)
        attribute_changed("param_groups")

    def make_state(self, group: ParamGroup) -> None:
        """Add the state Tensors that the group's hyperparameters ask for and that are not there yet."""
        for p in group["params"]:
            state = self.state.setdefault(p, {})
            for name in self.state_names(group):
                if name not in state:
                    state[name] = Tensor(np.zeros(p.shape, p.dtype.np), device=p.device)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (or, with `set_to_none=False`, make them zero)."""
        for group in self.param_groups:
            for p in group["params"]:
                forget_grad(p, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure`, if given, returned."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            made: dict[tuple[int, Any], dict[str, Tensor]] = {}
            for p, step in zip(group["params"], group.count_step(), strict=True):
                if step is None:
                    continue
                compute = dlc.float32 if p.dtype in (dlc.float16, dlc.bfloat16) else p.dtype
                scalars = made.get((id(step), compute))
                if scalars is None:
                    values = self.scalars(group, step)
                    scalars = made[id(step), compute] = {k: narrow(v, compute) for k, v in values.items()}
                self._step_one(group, p, compute, scalars)
        return loss

    def _step_one(self, group: ParamGroup, p: Tensor, compute: Any, scalars: dict[str, Tensor]) -> None:
        cells = self.state[p]
        grad = narrow(p.grad, compute)
        if group["maximize"]:
            grad = -grad
        state = {name: narrow(cell, compute) for name, cell in cells.items()}
        value, new = self.update(group, narrow(p, compute), grad, state, scalars)
        for name, tensor in new.items():
            cells[name].assign(narrow(tensor, p.dtype))
        p.assign(narrow(value, p.dtype))

    # -- saving and loading -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's layout: {'state': {number: {name: Tensor}}, 'param_groups': [{..., 'params': [numbers]}]}.

        As in PyTorch the Tensors are the optimizer's own, but for the counts of steps; `copy.deepcopy` keeps a state.
        """
        state: dict[int, dict[str, Tensor]] = {}
        groups = []
        for group in self.param_groups:
            numbers = []
            for p, missed in zip(group["params"], group.missed, strict=True):
                number = len(state)
                numbers.append(number)
                count = dlc.astype((group.steps - missed).detach(), dlc.float32)
                state[number] = {"step": count} | self.state[p]
            groups.append({name: group[name] for name in group if name != "params"} | {"params": numbers})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of this class, or of PyTorch's optimizer of the same name.

        Raises ValueError where groups, sizes or shapes differ; nothing is changed then.
        """
        if not isinstance(state_dict, Mapping) or not {"param_groups", "state"} <= state_dict.keys():
            raise ValueError(f"{self._name}: the state_dict of an optimizer is a dict with 'param_groups' and 'state'")
        groups, states = state_dict["param_groups"], state_dict["state"]
        if len(groups) != len(self.param_groups):
            raise ValueError(f"{self._name}: {len(groups)} saved parameter groups for {len(self.param_groups)}")
        for k, (group, saved) in enumerate(zip(self.param_groups, groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                raise ValueError(
                    f"{self._name}: group {k} has {len(group['params'])} parameters, {len(saved['params'])} saved"
                )
            for number, p in zip(saved["params"], group["params"], strict=True):
                for name, value in states.get(number, {}).items():
                    if name != "step" and value is not None and tuple(value.shape) != tuple(p.shape):
                        raise ValueError(
                            f"{self._name}: saved {name} of parameter {number} has shape {tuple(value.shape)}, "
                            f"the parameter {tuple(p.shape)}"
                        )
        for group, saved in zip(self.param_groups, groups, strict=True):
            for name, value in saved.items():
                if name != "params" and (name in self.defaults or name not in _PYTORCH_ONLY):
                    group[name] = tuple(value) if isinstance(value, list) else value
            # now there is all the state that these hyperparameters ask for
            for number, p in zip(saved["params"], group["params"], strict=True):
                for name, cell in self.state[p].items():
                    value = states.get(number, {}).get(name)
                    if value is None:
                        value = np.zeros(p.shape, p.dtype.np)  # PyTorch has no state before a parameter's first step
                    cell.assign(value_of(value, p.dtype, p.device))
            group.set_counts([self._saved_count(states.get(number, {})) for number in saved["params"]])

    def _saved_count(self, state: Mapping[str, Any]) -> float:
        if "step" in state:
            return float(state["step"])
        return 1.0 if any(v is not None for v in state.values()) else 0.0

    def __repr__(self) -> str:
        return f"{self._name} (\n" + "\n".join(map(repr, self.param_groups)) + "\n)"


_PYTORCH_ONLY = ("foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")
