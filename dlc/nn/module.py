"""`Module`: a tree of layers that owns parameters and buffers.

Every change of an attribute is reported to the tracer (`attribute_changed`), so that a jitted function that read the
old value is traced again: flags such as `training` are never silently stale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

import dlc
from dlc import DlcError, Tensor
from dlc.base.errors import INTERNAL, kind_of
from dlc.frontend.core import moving, places
from dlc.frontend.core.location import Located, here
from dlc.frontend.core.trace import UNSET, attribute_changed
from dlc.nn import state_dict as states

_TABLES = ("_parameters", "_buffers", "_modules")


class Parameter(Tensor):
    """A Tensor that a Module registers when it is assigned to an attribute; `requires_grad` is on unless turned off."""

    def __init__(self, data, requires_grad: bool = True, dtype=None):
        super().__init__(data.detach() if isinstance(data, Tensor) else data, dtype)
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Module(Located):
    """Base class of layers and models. Subclasses call `super().__init__()` first and define `forward`.

    Parameters, Modules and registered buffers assigned to attributes are found by name, in order of assignment.
    """

    training: bool
    reports_changes = (*_TABLES, "_temporary_buffers")  # besides attributes: what is in these

    def __init__(self) -> None:
        for table in _TABLES:
            object.__setattr__(self, table, {})
        object.__setattr__(self, "_temporary_buffers", set())
        object.__setattr__(self, "training", True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation; called through the module itself."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.forward(*args, **kwargs)
        except DlcError as error:
            _name_module(error, self)
            raise

    # -- attributes -------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if "_modules" not in tables:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
        home = None
        if isinstance(value, Parameter):
            home = "_parameters"
        elif isinstance(value, Module):
            home = "_modules"
        elif name in tables["_buffers"] and (value is None or isinstance(value, Tensor)):
            home = "_buffers"
        elif name in tables["_parameters"]:
            if value is not None:
                raise TypeError(
                    f"{type(self).__name__}.{name} is a parameter: assign a Parameter or None, or values with assign()"
                )
            home = "_parameters"
        elif name in tables["_modules"] and value is None:
            home = "_modules"
        self._set(home, name, value)

    def _set(self, home: str | None, name: str, value: Any) -> None:
        """Put an attribute where it belongs, take it from where it was, and tell the tracer."""
        old = self._current(name)
        for table in _TABLES:
            if table != home and self.__dict__[table].pop(name, UNSET) is not UNSET:
                attribute_changed(table)
        if home is None:
            object.__setattr__(self, name, value)
        else:
            self.__dict__.pop(name, None)
            self.__dict__[home][name] = value
        if old is not value:
            attribute_changed(home or name)

    def _current(self, name: str) -> Any:
        tables = self.__dict__
        for table in _TABLES:
            if name in tables[table]:
                return tables[table][name]
        return tables.get(name, UNSET)

    def __getattr__(self, name: str) -> Any:  # only called where normal lookup found nothing
        for table in _TABLES:
            found = self.__dict__.get(table, ())
            if name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for table in _TABLES:
            if name in self.__dict__[table]:
                del self.__dict__[table][name]
                self._temporary_buffers.discard(name)
                attribute_changed(table)
                return
        object.__delattr__(self, name)
        attribute_changed(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(n for table in _TABLES for n in self.__dict__.get(table, ()))})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under `name`; None keeps the name free."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name!r} is a {kind_of(param)}, not a Parameter")
        self._check_name(name)
        self._set("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a Tensor that belongs to the state but is not trained; `persistent` puts it into `state_dict`."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name!r} is a {kind_of(tensor)}, not a Tensor")
        self._check_name(name)
        self._set("_buffers", name, tensor)
        (self._temporary_buffers.discard if persistent else self._temporary_buffers.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under `name`."""
        if isinstance(module, type):
            raise TypeError(f"add_module: {name!r} is the class {module.__name__}, not a Module made of it")
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: {name!r} is a {kind_of(module)}, not a Module")
        self._check_name(name)
        self._set("_modules", name, module)

    register_module = add_module

    def _check_name(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise KeyError(f"{type(self).__name__}: a name is a non-empty string without dots, not {name!r}")
        if hasattr(self, name) and not any(name in self.__dict__[table] for table in _TABLES):
            raise KeyError(f"{type(self).__name__} already has an attribute {name!r}")

    # -- walking ----------------------------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all below it, parents first."""
        yield from _walk(self, prefix, set() if remove_duplicate else None)

    def modules(self) -> Iterator[Module]:
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct children."""
        return ((name, m) for name, m in self._modules.items() if m is not None)

    def children(self) -> Iterator[Module]:
        return (m for _, m in self.named_children())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter); a parameter that is shared comes once, under its first name."""
        return self._named_tensors("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer)."""
        return self._named_tensors("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (b for _, b in self.named_buffers(recurse=recurse))

    def _named_tensors(self, table: str, prefix: str, recurse: bool, once: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix, once) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, tensor in module.__dict__[table].items():
                if tensor is None or once and id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                yield (f"{path}.{name}" if path else name), tensor

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; '' is this one. Raises AttributeError naming the part that is missing."""
        module = self
        for part in target.split(".") if target else ():
            child = module._modules.get(part)
            if child is None:
                raise AttributeError(f"{type(module).__name__} has no child {part!r} (of {target!r})")
            module = child
        return module

    # -- modes and types --------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Set training mode (dropout acts, batch statistics are used) here and below."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Module:
        return self.train(False)

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Call `fn` on every module, children first; used to initialise."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self, *targets, dtype=None, device=None) -> Module:
        """Parameters and buffers moved to a device, float ones converted to a dtype, or both.

        Moving keeps the Tensors and their gradients; optimizers made before keep their state where it was. A Tensor's
        dtype never changes, so converted ones are new Tensors: make optimizers afterwards.
        """
        for target in targets:
            if isinstance(target, (dlc.DType, np.dtype, type)):
                dtype = target
            elif isinstance(target, (str, int)) or hasattr(target, "__enter__"):
                device = f"cuda:{target}" if isinstance(target, int) else target
            else:
                raise TypeError(f"to: parameters convert to a float dtype, or move to a device, not to {target!r}")
        if device is not None:
            self._move(device)
        return self if dtype is None else self._convert(dlc.zeros((), dtype=dtype).dtype)  # NumPy's are taken as well

    def cpu(self) -> Module:
        return self.to("cpu")

    def cuda(self, device: int | str = 0) -> Module:
        """Parameters and buffers moved to a GPU, given by its number or its name."""
        return self.to(device)

    def _move(self, device) -> None:
        name, seen = places.named(device), set()
        for module in self.modules():
            for home in ("_parameters", "_buffers"):
                for tensor in module.__dict__[home].values():
                    if tensor is not None and id(tensor) not in seen:
                        seen.add(id(tensor))
                        moving.move(tensor, name)

    def _convert(self, dtype) -> Module:
        if dtype not in (dlc.float16, dlc.bfloat16, dlc.float32, dlc.float64):
            raise TypeError(f"to: parameters convert to a float dtype, not {dtype!r}")
        converted: dict[int, Tensor] = {}  # tied parameters stay tied
        for module in self.modules():
            for home in ("_parameters", "_buffers"):
                for name, old in list(module.__dict__[home].items()):
                    if old is None or old.dtype == dtype or not dlc.isdtype(old.dtype, "real floating"):
                        continue
                    if id(old) not in converted:
                        value = dlc.astype(old.detach(), dtype)
                        is_param = isinstance(old, Parameter)
                        converted[id(old)] = Parameter(value, old.requires_grad) if is_param else value
                    module._set(home, name, converted[id(old)])
        return self

    def float(self) -> Module:
        return self.to(dlc.float32)

    def double(self) -> Module:
        return self.to(dlc.float64)

    def half(self) -> Module:
        return self.to(dlc.float16)

    def bfloat16(self) -> Module:
        return self.to(dlc.bfloat16)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Turn gradients of all parameters on or off."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters (or, with `set_to_none=False`, make them zero)."""
        for p in self.parameters():
            forget_grad(p, set_to_none)

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> OrderedDict[str, Tensor]:
        """Dotted name -> every parameter and persistent buffer, in PyTorch's order.

        As in PyTorch these are the module's own cells without gradients: they show its later values, and assigning to
        one changes the module. Copies are made by `clone()` or `copy.deepcopy`.
        """
        return states.collect(self, prefix)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> states.IncompatibleKeys:
        """Take values (dlc Tensors, NumPy arrays or torch tensors) by name, converted to each parameter's dtype.

        Raises ValueError that lists missing and unexpected names (if `strict`) and every shape that differs; nothing is
        changed then. Returns (missing_keys, unexpected_keys).
        """
        return states.load(self, state_dict, strict)

    # -- printing ---------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The layer's settings, for `repr`."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr().splitlines()
        lines = []
        for name, module in self._modules.items():
            first, *rest = repr(module).split("\n")
            lines.append("\n".join([f"({name}): {first}", *("  " + line for line in rest)]))
        if not lines:
            return f"{self._get_name()}({', '.join(extra)})"
        return f"{self._get_name()}(\n  " + "\n  ".join(extra + lines) + "\n)"


def forget_grad(p: Tensor, set_to_none: bool) -> None:
    """Drop the gradient of `p`, or make one that is there zero."""
    if set_to_none:
        p.grad = None  # without looking: a compiled step must not depend on whether there was one
    elif p.grad is not None:
        p.grad = dlc.zeros_like(p)


def _walk(module: Module, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Module]]:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{prefix}.{name}" if prefix else name, seen)


def _name_module(error: DlcError, module: Module) -> None:
    """Say in `error` which module it came from: its path from the outermost module called, and its settings."""
    if isinstance(error, INTERNAL):
        return
    chain = getattr(error, "modules", None)
    if chain is None:
        at = "" if getattr(error, "loc", None) is not None else f"\n  at {here()}"
        error.message = str(error) + at  # type: ignore[attr-defined]
        chain = error.modules = []  # type: ignore[attr-defined]
    chain.append(module)
    path = []
    for inner, outer in zip(chain, chain[1:], strict=False):
        path += [name for name, child in outer._modules.items() if child is inner][:1]
    summary = chain[0]._get_name() if chain[0]._modules else repr(chain[0])
    where = f"{'.'.join(reversed(path))}: {summary}" if path else summary
    error.args = (f"{error.message}\n  in module {where}",)  # type: ignore[attr-defined]
