"""`Tensor`: a cell that holds one immutable value, a node of the Graph IR.

The value is either at hand (the node carries a Buffer in `data`) or still to be computed. Assigning to a Tensor rebinds
the cell; no operation ever changes a value. Shape and dtype belong to the cell and never change: compiled functions
that read a cell rely on it. Operators and most methods are attached by `dlc.frontend.methods`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dlc.base.errors import (
    DeviceError,
    DTypeError,
    GradientError,
    ShapeError,
    TraceError,
    kind_of,
)
from dlc.frontend.core import eager, in_place, moving, places
from dlc.frontend.core.in_place import stopped
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_node, tensor
from dlc.frontend.core.trace import Cell, Trace, flags_changed, leaf_cell, leaked, leaves_of, stand_in, state
from dlc.frontend.core.trace import differentiable as _differentiable
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as build
from dlc.ir.graph.graph import Node, TensorType, make
from dlc.runtime.cpu.memory import Buffer


class Tensor(Cell):
    """A tensor of any dlc dtype and shape.

    `Tensor(data, dtype=None, requires_grad=False, device=None)` copies a NumPy array, a (nested) list, a number or
    takes the value of another Tensor. Python floats become float32 and Python integers int64 unless `dtype` says
    otherwise.
    """

    __slots__ = ()
    __hash__ = object.__hash__  # `==` is elementwise; a Tensor in a dict or a set is itself
    __array_priority__ = 1000  # NumPy's operators give way to ours

    def __init__(self, data: Any, dtype: DType | None = None, requires_grad: bool = False, device: Any = None):
        self._node = tensor(data, dtype, device)
        self._owner = state.trace
        self._weak = False
        self._requires_grad = False
        self._grad = None
        if requires_grad:
            self.requires_grad = True

    # --- the value ---

    def _write(self, node: Node) -> None:
        """Rebind the cell to a node of its type. A Tensor with `requires_grad` stays a leaf, whatever it is given."""
        if self._requires_grad and leaf_cell(node) is not self:
            node = in_place.own_leaf(node, self)
        trace = state.trace
        if self._owner is trace:
            self._node = node
            if trace is None:
                eager.mark_pending(self)
        elif trace is None:
            raise leaked(self)
        else:
            trace.write(self, node)

    def rebind(self, value: Any, what: str = "in-place operation") -> Tensor:
        """Rebind to `value` of the same shape, cast to this dtype, letting gradients through: `x[i] = v`, `x += y`.

        Raises GradientError for a leaf that requires gradients, but under `no_grad`.
        """
        in_place.check(self, what)
        node = self._fitted(value, what)
        if state.no_grad and not self._requires_grad:
            node = in_place.without_recording(node, self._read())
        elif not self._requires_grad:
            node = in_place.recorded(node, self._read())
        self._write(node)
        return self

    @user_errors
    def assign(self, value: Any) -> Tensor:
        """Rebind to `value` (same shape and dtype), with no gradient to what it came from. Returns the Tensor."""
        self._write(stopped(self._fitted(value, "assign", exact=True)))
        return self

    def _fitted(self, value: Any, what: str, exact: bool = False) -> Node:
        number = not isinstance(value, Tensor) and isinstance(value, (bool, int, float))
        here_ = self.device if places.several and not isinstance(value, Tensor) else None
        node = build.const(value, self._node.dtype) if number else as_node(value, device=here_)
        if node.shape != self._node.shape:
            if node.shape != () or exact and not number:
                raise ShapeError(f"{what}: a value of shape {node.shape} for a tensor of shape {self._node.shape}")
            node = build.broadcast_to(node, self._node.shape)
        if node.dtype is not self._node.dtype:
            if exact and not isinstance(value, (list, np.ndarray)):
                raise DTypeError(
                    f"{what}: a {node.dtype.name} value for a {self._node.dtype.name} tensor; cast it first"
                )
            node = build.cast(node, self._node.dtype)
        return self._placed(node, what) if places.several and not self.follows else node

    def _placed(self, node: Node, what: str) -> Node:
        """A new value for this cell, which it must not take to another device."""
        own = places.place(self._read()) if self._owner is not state.trace else places.place_of(self)
        real = {own, places.place(node)} - {places.ANYWHERE, places.FOLLOWS}
        if len(real) > 1:
            raise DeviceError(
                f"{what}: a value on {places.place(node)} for a tensor on {own}; move it with to()"
            )
        where = places.settled(own)
        if state.trace is None and node.data is None and places.place(node) in ("", places.FOLLOWS):
            return places.pinned(node, where)
        return node

    @property
    def shape(self) -> tuple[int, ...]:
        return self._node.type.shape

    @property
    def ndim(self) -> int:
        return len(self._node.type.shape)

    @property
    def size(self) -> int:
        return self._node.type.size

    @property
    def device(self) -> str:
        """Where the value is, or will be computed: "cpu", "cuda:0", ..."""
        return places.place_at(self)

    # --- gradients ---

    @property
    def requires_grad(self) -> bool:
        """Whether `backward()` from here reaches a Tensor that wants gradients. Set it on parameters and inputs."""
        return self._requires_grad or _differentiable(self._read())

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        if on and not self.dtype.is_float:
            raise DTypeError(
                f"requires_grad: only float tensors have gradients, this one is {self.dtype.name}\n  at {here()}"
            )
        if on == self._requires_grad and (on or not self.requires_grad):
            return
        if not self._requires_grad and self._computed():
            raise GradientError(
                "requires_grad: only leaf tensors can be told whether to have a gradient, and this one was computed "
                f"from one; use detach()\n  at {here()}"
            )
        if self._owner is not state.trace:
            raise TraceError(
                "requires_grad of a Tensor from outside was set while a function is traced: set it before the call, or "
                f"use detach() or dlc.no_grad()\n  at {here()}"
            )
        flags_changed()
        self._requires_grad = on
        self._write(stopped(self._read()))  # under a name of its own: what was computed before keeps to the old one

    def _no_data(self, value: Any = None) -> None:
        """PyTorch's way around the gradient, which a subclass would otherwise take for an attribute of its own."""
        raise AttributeError(
            f"a Tensor is a value and has no data: read x.detach(), write x.assign(value)\n  at {here()}"
        )

    data = property(_no_data, _no_data)

    def requires_grad_(self, on: bool = True) -> Tensor:
        """Set `requires_grad`, and return the Tensor. What was computed from a leaf requires its gradient anyway."""
        if not on or self._requires_grad or not self._computed():
            self.requires_grad = on
        return self

    def _computed(self) -> bool:
        return self.dtype.is_float and in_place.may_differentiate(self._read())

    def detach_(self) -> Tensor:
        """Forget what the value came from; a leaf requires no gradient any more. Returns the Tensor."""
        if self._requires_grad:
            self.requires_grad = False
        else:
            self._write(stopped(self._read()))
        return self

    @property
    def grad(self) -> Tensor | None:
        """What `backward()` has accumulated for this Tensor, or None."""
        trace = state.trace
        return self._grad if self._owner is trace else _foreign_trace(self).read_grad(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise DTypeError(f"grad: a gradient is a Tensor or None, not a {kind_of(value)}\n  at {here()}")
        if value is not None and (value.shape != self.shape or value.dtype is not self.dtype):
            raise ShapeError(
                f"grad: a {value.dtype.name} {value.shape} gradient for a {self.dtype.name} {self.shape} tensor"
                f"\n  at {here()}"
            )
        if value is not None and places.several and value.device != self.device:
            raise DeviceError(f"grad: a gradient on {value.device} for a tensor on {self.device}\n  at {here()}")
        if self._owner is state.trace:
            self._grad = value
        else:
            _foreign_trace(self).write_grad(self, value)

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add the gradients of this tensor to `.grad` of every requires_grad Tensor that it was computed from.

        `gradient` is the cotangent; left out, the tensor must hold one element. As in PyTorch, the history is spent
        afterwards unless `retain_graph`, and the gradients carry none themselves unless `create_graph`.
        """
        trace = state.trace
        if trace is not None and trace.kind != "jit":
            raise TraceError(f"backward() inside {trace.kind}, at {here()}: use dlc.grad there")
        if state.transforms:
            raise TraceError(f"backward() inside a function that is differentiated, at {here()}: use dlc.grad there")
        loc, root = here(), self._read()
        if gradient is None and root.type.size != 1:
            raise ShapeError(f"backward: needs a scalar or a gradient; this tensor has shape {self.shape}\n  at {loc}")
        if not self.dtype.is_float:
            raise DTypeError(f"backward: a {self.dtype.name} tensor has no gradient\n  at {loc}")
        leaves = leaves_of([root])
        if not leaves:
            raise TraceError(
                f"backward: this tensor was not computed from any Tensor with requires_grad (or backward() was already "
                f"called on it, or it was made under no_grad)\n  at {loc}"
            )
        cotangent = build.like(root, 1, loc) if gradient is None else _cotangent(gradient, root)
        bundle = make("vjp", (root, cotangent, *leaves), loc, outputs=1)
        for k, leaf in enumerate(leaves):
            cell, grad = leaf_cell(leaf), build.item(bundle, k, loc)
            if not cell._requires_grad:  # any more
                continue
            if not create_graph:
                grad = make("stop_gradient", (grad,), loc)
            held = cell.grad
            if held is None:
                cell.grad = wrap(grad)
                if trace is None:
                    eager.mark_pending(cell.grad)
            else:
                held._write(build.op("add", held._read(), grad, loc=loc))
        if trace is not None:
            trace.consumed.update(eager.history(root))
        if not (retain_graph or create_graph) and not self._requires_grad:
            self._write(stopped(root))

    def detach(self) -> Tensor:
        """The same value, with no gradient to what it came from."""
        return wrap(stopped(self._read()), weak=self._weak)

    # --- looking at the value ---

    def realize(self) -> Tensor:
        """Compute the value now (inside a trace: nothing to do). Returns the Tensor itself."""
        if state.trace is None:
            eager.realize(self)
        return self

    def numpy(self) -> np.ndarray:
        """The value as a read-only NumPy array without a copy; its content never changes."""
        eager.may_leave(self, "numpy()")
        array = eager.view(self, "numpy()")
        array.flags.writeable = False
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        eager.may_leave(self, "a NumPy function")
        array = eager.view(self, "a NumPy function")
        array.flags.writeable = False
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(
                    f"a {self.dtype.name} tensor cannot become an array of {np.dtype(dtype)} without a copy"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_function__(self, function: Callable, types: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """NumPy's functions get Tensors as arrays, but for those that ask for nothing but the shape."""
        if function in _OF_SHAPES and len(args) == 1 and not kwargs:
            return _OF_SHAPES[function](self)
        return function(*_as_arrays(args), **_as_arrays(kwargs))

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        """PyTorch's functions do not take Tensors. PyTorch itself would say "must be Tensor, not Tensor"."""
        name = getattr(function, "__name__", str(function))
        raise DTypeError(f"torch's {name} does not take a dlc.Tensor: convert it with torch.from_dlpack(x)")

    def item(self) -> bool | int | float:
        """The only element, as a Python number."""
        return self._scalar("item()")

    def tolist(self) -> Any:
        return eager.view(self, "tolist()").tolist()

    def _scalar(self, what: str) -> Any:
        if self.size != 1:
            raise ShapeError(f"{what}: needs a tensor of one element, this one has shape {self.shape}\n  at {here()}")
        return eager.view(self, what).reshape(-1)[0].item()

    def __bool__(self) -> bool:
        return bool(self._scalar("bool()"))

    def __int__(self) -> int:
        return int(self._scalar("int()"))

    def __float__(self) -> float:
        return float(self._scalar("float()"))

    def __index__(self) -> int:
        if not self.dtype.is_int or self.ndim:
            raise DTypeError(f"index: needs an integer scalar, not {self.dtype.name} {self.shape}\n  at {here()}")
        return self._scalar("index()")

    def __repr__(self) -> str:
        kind = f"dtype={self.dtype.name}" + (", requires_grad=True" if self._requires_grad else "")
        if state.trace is not None or self._owner is not None:
            return f"Tensor(<traced>, shape={self.shape}, {kind})"
        body = np.array2string(eager.view(self, "repr()"), separator=", ", prefix="Tensor(")
        return f"Tensor({body}, {kind})" if self.size else f"Tensor([], shape={self.shape}, {kind})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __deepcopy__(self, memo: dict) -> Tensor:
        out = memo[id(self)] = stand_in(self)
        out._owner, out._requires_grad = state.trace, False
        out._node = stopped(self._read()) if self._requires_grad else self._read()
        out.requires_grad = self._requires_grad
        return out

    def __reduce__(self):
        array, attributes = np.array(self.numpy()), getattr(self, "__dict__", {})
        where = None if self.follows or places.floats(self._node) else self.device
        kind = self._copied_as or type(self)
        return _rebuild, (kind, array, where, self._weak, self._requires_grad, attributes)


def _rebuild(
    cls: type, array: np.ndarray, where: str | None, weak: bool, requires_grad: bool, attributes: dict
) -> Tensor:
    """A pickled Tensor on the device it was on (None: it goes where it is used). Raises DeviceError without that."""
    out = cls.__new__(cls)
    if where is None and places.several:
        out._node, out._owner, out._grad, out._requires_grad = eager.following(array), state.trace, None, False
    else:
        try:
            Tensor.__init__(out, array, device=where)
        except DeviceError as error:
            why = str(error).removeprefix("tensor: ")
            raise DeviceError(f"a pickled tensor was on {where}; pickle x.cpu() to load it anywhere: {why}") from None
    out._weak = weak
    getattr(out, "__dict__", {}).update(attributes)
    out.requires_grad = requires_grad
    return out


def _foreign_trace(cell: Tensor) -> Trace:
    if state.trace is None:
        raise leaked(cell)
    return state.trace


def _cotangent(gradient: Any, root: Node) -> Node:
    node = build.cast(as_node(gradient), root.dtype)
    if node.shape != root.shape:
        raise ShapeError(
            f"backward: a gradient of shape {node.shape} for a tensor of shape {root.shape}\n  at {here()}"
        )
    return node


def wrap(node: Node, weak: bool = False) -> Tensor:
    """A new Tensor that holds `node`. `weak`: it takes its dtype from what it meets, like a Python number."""
    trace = state.trace
    if state.no_grad and node.type.dtype.is_float and node.op not in ("const", "stop_gradient"):
        node = make("stop_gradient", (node,), node.loc)
    if places.several:
        places.place(node)  # operands on different devices are an error of this operation
    out = bare(node, trace, weak)
    if trace is None:
        eager.count(out)
    return out


_new: Callable[[type], Tensor] = object.__new__


def bare(node: Node, owner: Trace | None, weak: bool = False) -> Tensor:
    """A new Tensor with exactly this state."""
    out = _new(Tensor)
    out._node, out._owner, out._weak, out._requires_grad, out._grad = node, owner, weak, False, None
    return out


def moved(x: Tensor, target: Any) -> Tensor:
    """A Tensor with the value of `x` on another device; `x` itself if it is there."""
    node = moving.moved_node(x, target)
    return x if node is None else wrap(node, x._weak)


def from_buffer(buffer: Buffer, type: TensorType) -> Tensor:
    """A new Tensor over a Buffer that holds its value."""
    return bare(eager.leaf(buffer, type), state.trace)


_OF_SHAPES: dict[Callable, Callable[[Tensor], Any]] = {
    np.shape: lambda x: x.shape, np.ndim: lambda x: x.ndim, np.size: lambda x: x.size,
}  # fmt: skip


def _as_arrays(value: Any) -> Any:
    """Arguments of a NumPy function with arrays in place of Tensors."""
    if isinstance(value, Tensor):
        return np.asarray(value)
    if type(value) in (list, tuple):
        return type(value)(map(_as_arrays, value))
    return {name: _as_arrays(item) for name, item in value.items()} if type(value) is dict else value
