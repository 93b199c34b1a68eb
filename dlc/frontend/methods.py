"""Operators and methods of Tensor: one table, attached by `install()`.

Methods have the names of the array functions, and NumPy's and PyTorch's where those differ; `dim` and `keepdim` are
taken for `axis` and `keepdims`. Names that end in `_` rebind the Tensor to a new value and return it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlc.base.errors import DTypeError, ShapeError, is_foreign
from dlc.frontend import random
from dlc.frontend.array import (
    axes,
    creation,
    elementwise,
    gathering,
    indexing,
    linalg,
    manipulation,
    padding,
    reductions,
    statistics,
    unary,
    windows,
)
from dlc.frontend.array import (
    sorting as sorting,
)
from dlc.frontend.core import in_place
from dlc.frontend.core.arguments import TORCH_KEYWORDS
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.operands import as_dtype, as_node
from dlc.frontend.core.tensor import Tensor, moved, wrap
from dlc.frontend.io import dlpack
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import located

_OPERANDS = (Tensor, bool, int, float, np.ndarray, np.generic, list, tuple)

# -- operators

_BINARY: dict[str, Callable] = {
    "add": elementwise.add,
    "sub": elementwise.subtract,
    "mul": elementwise.multiply,
    "truediv": elementwise.divide,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder,
    "pow": elementwise.pow,
    "matmul": linalg.matmul,
    "and": elementwise.bitwise_and,
    "or": elementwise.bitwise_or,
    "xor": elementwise.bitwise_xor,
    "lshift": elementwise.bitwise_left_shift,
    "rshift": elementwise.bitwise_right_shift,
}

_COMPARE: dict[str, Callable] = {
    "eq": elementwise.equal,
    "ne": elementwise.not_equal,
    "lt": elementwise.less,
    "le": elementwise.less_equal,
    "gt": elementwise.greater,
    "ge": elementwise.greater_equal,
}


def _operator(f: Callable) -> Callable:
    def method(self: Tensor, other: Any) -> Any:
        return f(self, other) if isinstance(other, _OPERANDS) or is_foreign(other) else NotImplemented

    return method


def _reflected(f: Callable) -> Callable:
    def method(self: Tensor, other: Any) -> Any:
        return f(other, self) if isinstance(other, _OPERANDS) or is_foreign(other) else NotImplemented

    return method


def _in_place(f: Callable, name: str) -> Callable:
    def method(self: Tensor, other: Any) -> Any:
        if not isinstance(other, _OPERANDS) and not is_foreign(other):
            return NotImplemented
        in_place.check(self, name)
        return _rebound(self, f(self, other), name)

    return method


@functools.partial(user_errors, name="in_place")
def _rebound(x: Tensor, value: Tensor, name: str) -> Tensor:
    """x holding `value`, whose shape and kind of dtype must be x's."""
    rank = "biuf".index
    have, got = x.dtype, value.dtype
    if have is not got and (have.is_bool or have.is_int and not got.is_int or rank(have.kind) < 1):
        raise DTypeError(f"in_place: a {got.name} result does not go into a {have.name} tensor; write x = x + y")
    if value.shape != x.shape:
        raise ShapeError(f"in_place: a result of shape {value.shape} does not go into a tensor of shape {x.shape}")
    return x.rebind(value, name)


def _divmod(x: Any, other: Any) -> tuple[Tensor, Tensor]:
    return elementwise.floor_divide(x, other), elementwise.remainder(x, other)


def _length(x: Tensor) -> int:
    if not x.ndim:
        raise TypeError(f"len() of a scalar tensor\n  at {here()}")
    return x.shape[0]


def _iterate(x: Tensor) -> Iterator[Tensor]:
    if not x.ndim:
        raise TypeError(f"a scalar tensor has nothing to iterate over\n  at {here()}")
    return iter(manipulation.unstack(x))


def _contains(x: Tensor, value: Any) -> bool:
    return bool(reductions.any(elementwise.equal(x, value)))


_SPECIAL: dict[str, Callable] = {
    "__neg__": lambda x: unary.negative(x),
    "__pos__": lambda x: unary.positive(x),
    "__abs__": lambda x: unary.abs(x),
    "__invert__": lambda x: elementwise.bitwise_invert(x),
    "__round__": lambda x, digits=0: unary.round(x, digits or 0),
    "__divmod__": _divmod,
    "__rdivmod__": lambda x, other: _divmod(other, x),
    "__getitem__": indexing.getitem,
    "__setitem__": indexing.setitem,
    "__len__": _length,
    "__iter__": _iterate,
    "__contains__": _contains,
    "__dlpack__": dlpack.dlpack,
    "__dlpack_device__": dlpack.dlpack_device,
    "__array_namespace__": dlpack.namespace,
}

# -- methods that are the functions of the same name

_SAME_NAME: dict[Any, str] = {
    unary: """
        abs acos acosh asin asinh atan atanh ceil cos cosh erf exp exp2 expm1 floor isfinite isinf isnan log
        log10 log1p log2 nan_to_num negative positive reciprocal round rsqrt sigmoid sign signbit sin sinh sqrt
        square tan tanh trunc""",
    elementwise: """
        add atan2 bitcast bitwise_and bitwise_invert bitwise_left_shift bitwise_not bitwise_or
        bitwise_right_shift bitwise_xor clamp clip copysign divide equal floor_divide fmod greater greater_equal
        hypot isclose lerp less less_equal logaddexp logical_and logical_not logical_or logical_xor maximum
        minimum multiply not_equal pow remainder true_divide""",
    reductions: """
        all any argmax argmin amax amin count_nonzero cummax cummin cumprod cumsum cumulative_prod cumulative_sum diff
        logsumexp max mean min prod std sum var""",
    statistics: "median quantile",
    manipulation: """
        broadcast_to chunk expand_dims flatten moveaxis repeat_interleave roll split squeeze swapaxes unflatten
        unsqueeze unstack""",
    padding: "pad",
    windows: "unfold",
    gathering: """
        gather index_add index_copy index_fill index_select masked_fill masked_select narrow scatter scatter_add take
        take_along_axis""",
    linalg: "bmm diagonal dot matmul norm outer trace vecdot",
    sorting: "argsort nonzero searchsorted sort topk unique",
    creation: "one_hot tril triu",
}  # fmt: skip

# -- methods under other names


def _permute(x: Tensor, *axes: Any) -> Tensor:
    """The axes in another order, given as integers or as one sequence."""
    return manipulation.permute_dims(x, axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes)


def _transpose(x: Tensor, *axes: Any) -> Tensor:
    """All axes reversed; two axes swapped (PyTorch); or the order given as one sequence or as more integers (NumPy)."""
    if len(axes) == 2:
        return manipulation.swapaxes(x, *axes)
    return _permute(x, *axes) if axes and axes[0] is not None else manipulation.transpose(x)


def _reshape(x: Tensor, *shape: Any) -> Tensor:
    """Another shape of the same size, given as integers or as one sequence; one extent may be -1."""
    return manipulation.reshape(x, axes.varargs_shape("reshape", shape))


def _expand(x: Tensor, *shape: Any) -> Tensor:
    """`broadcast_to` with the shape given as integers or as one sequence; -1 keeps an extent."""
    return manipulation.broadcast_to(x, axes.varargs_shape("expand", shape))


def _tile(x: Tensor, *repetitions: Any) -> Tensor:
    """The whole tensor side by side, so many times along each axis."""
    return manipulation.tile(x, axes.varargs_shape("tile", repetitions))


def _repeat(x: Tensor, repeats: Any, *tile: int, axis: int | None = None) -> Tensor:
    """Each element `repeats` times in a row along `axis` (NumPy's meaning; PyTorch's `x.repeat(2, 3)` is `tile`)."""
    if tile:
        raise TypeError(f"repeat: takes one number and axis=; PyTorch's repeat(2, 3) is tile(2, 3)\n  at {here()}")
    return manipulation.repeat(x, repeats, axis)


def _flip(x: Tensor, *axes: Any, axis: Any = None) -> Tensor:
    """The order along the given axes (all if none) reversed."""
    return manipulation.flip(x, axes[0] if len(axes) == 1 else axes or axis)


def _copy(x: Tensor) -> Tensor:
    """A Tensor of its own with the same value; gradients flow through."""
    return wrap(x.node)


@user_errors
def _to(x: Tensor, *targets: Any, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """x converted to a dtype, moved to a device, or both: to those of another tensor."""
    for t in targets:
        if isinstance(t, Tensor):
            dtype, device = t.dtype, t.device
        elif isinstance(t, (DType, np.dtype, type)):
            dtype = as_dtype("to", t)
        else:
            device = t
    x = x if device is None else moved(x, device)
    return x if dtype is None or dtype is x.dtype else elementwise.astype(x, dtype)


@user_errors
def _cuda(x: Tensor, device: int | str = 0) -> Tensor:
    """x on a GPU, given by its number or its name."""
    return moved(x, f"cuda:{device}" if isinstance(device, int) else device)


@user_errors
def _cpu(x: Tensor) -> Tensor:
    """x in host memory."""
    return moved(x, "cpu")


def _cast(dtype: DType) -> Callable:
    def method(x: Tensor) -> Tensor:
        return elementwise.astype(x, dtype)

    method.__doc__ = f"x converted to {dtype.name}."
    return method


def _same_shape_as(f: Callable) -> Callable:
    def method(x: Tensor, other: Tensor) -> Tensor:
        return f(x, other.shape)

    method.__doc__ = "The shape of another tensor."
    return method


def _scaled(f: Callable) -> Callable:
    def method(x: Tensor, other: Any, *, alpha: Any = 1) -> Tensor:
        return f(x, other if isinstance(alpha, int) and alpha == 1 else elementwise.multiply(other, alpha))

    method.__doc__ = f"`{f.__name__}` of x and `alpha * other`."
    return method


_OTHER_NAME: dict[str, Callable] = {
    "astype": elementwise.astype,
    "permute": _permute,
    "permute_dims": _permute,
    "transpose": _transpose,
    "reshape": _reshape,
    "view": windows.view,
    "expand": _expand,
    "tile": _tile,
    "repeat": _repeat,
    "flip": _flip,
    "ravel": manipulation.flatten,
    "movedim": manipulation.moveaxis,
    "unbind": manipulation.unstack,
    "view_as": _same_shape_as(manipulation.reshape),
    "reshape_as": _same_shape_as(manipulation.reshape),
    "expand_as": _same_shape_as(manipulation.broadcast_to),
    "clone": _copy,
    "copy": _copy,
    "contiguous": lambda x: x,
    "to": _to,
    "cuda": _cuda,
    "cpu": _cpu,
    "float": _cast(dtypes.float32),
    "double": _cast(dtypes.float64),
    "half": _cast(dtypes.float16),
    "bfloat16": _cast(dtypes.bfloat16),
    "int": _cast(dtypes.int32),
    "long": _cast(dtypes.int64),
    "bool": _cast(dtypes.bool_),
    "numel": lambda x: x.size,
    "dim": lambda x: x.ndim,
    "is_floating_point": lambda x: x.dtype.is_float,
    "add": _scaled(elementwise.add),
    "sub": _scaled(elementwise.subtract),
    "subtract": _scaled(elementwise.subtract),
    "mul": elementwise.multiply,
    "div": elementwise.divide,
    "neg": unary.negative,
    **_COMPARE,
    "mm": linalg.matmul,
    "t": manipulation.transpose,
    "where": lambda x, condition, other: elementwise.where(condition, x, other),
}

_PROPERTIES: dict[str, Callable] = {
    "T": lambda x: manipulation.transpose(x),
    "mT": lambda x: manipulation.matrix_transpose(x),
    "at": lambda x: indexing.At(x),
    "nbytes": lambda x: x.size * x.dtype.itemsize,
    "itemsize": lambda x: x.dtype.itemsize,
}

# -- methods that rebind


def _filled(x: Tensor, value: Any) -> Tensor:
    return wrap(elementwise.full_like_node(x.node, value))


def _copied(x: Tensor, source: Any) -> Tensor:
    return wrap(axes.spread(b.cast(as_node(source), x.dtype), x.shape))


def _addcmul(x: Tensor, a: Any, c: Any, *, value: Any = 1) -> Tensor:
    return elementwise.add(x, elementwise.multiply(elementwise.multiply(a, c), value))


def _addcdiv(x: Tensor, a: Any, c: Any, *, value: Any = 1) -> Tensor:
    return elementwise.add(x, elementwise.multiply(elementwise.divide(a, c), value))


_REBOUND_BY_NAME = """
    abs acos acosh asin asinh atan atan2 atanh ceil clamp clip cos cosh divide erf exp exp2 expm1 floor floor_divide
    fmod hypot lerp log log10 log1p log2 multiply nan_to_num negative pow reciprocal remainder round rsqrt sigmoid sign
    sin sinh sqrt square tan tanh true_divide trunc"""

_REBINDING: dict[str, Callable] = {
    **{f"{n}_": getattr(unary if hasattr(unary, n) else elementwise, n) for n in _REBOUND_BY_NAME.split()},
    "add_": _OTHER_NAME["add"],
    "sub_": _OTHER_NAME["sub"],
    "subtract_": _OTHER_NAME["sub"],
    "mul_": elementwise.multiply,
    "div_": elementwise.divide,
    "neg_": unary.negative,
    "addcmul_": _addcmul,
    "addcdiv_": _addcdiv,
    "zero_": lambda x: _filled(x, 0),
    "fill_": _filled,
    "copy_": _copied,
    "masked_fill_": gathering.masked_fill,
    "scatter_": gathering.scatter,
    "scatter_add_": gathering.scatter_add,
    "index_add_": gathering.index_add,
    "index_copy_": gathering.index_copy,
    "index_fill_": gathering.index_fill,
    "uniform_": lambda x, low=0.0, high=1.0, *, generator=None: random.uniform(
        x.shape, low, high, dtype=x.dtype, generator=generator
    ),
    "normal_": lambda x, mean=0.0, std=1.0, *, generator=None: random.normal(
        x.shape, mean, std, dtype=x.dtype, generator=generator
    ),
    "bernoulli_": lambda x, p=0.5, *, generator=None: random.bernoulli(p, x.shape, dtype=x.dtype, generator=generator),
}


def _rebinding(f: Callable, name: str) -> Callable:
    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with located(here()):
            in_place.check(x, name)  # before random numbers are drawn
            return _rebound(x, f(x, *args, **kwargs), name)

    method.__doc__ = "Rebinds the tensor to the result of the function of the same name without `_`, and returns it."
    return user_errors(method, operation=False)


_WITH_POSITIONS = ("cummax", "cummin", "max", "median", "min", "sort")  # where PyTorch's, with `dim`, give a pair


def _with_torch_keywords(f: Callable) -> Callable:
    """`f` as a method that also takes `dim` and `keepdim`, where it has `axis` and `keepdims`.

    Methods that mean something else by `dim` in PyTorch raise: x.max(dim=1)[0] would be a plausible wrong result.
    """
    names = inspect.signature(f).parameters
    renamed = {theirs: ours for theirs, ours in TORCH_KEYWORDS.items() if ours in names and theirs not in names}
    if not renamed:
        return f

    @functools.wraps(f)
    def method(*args: Any, **kwargs: Any) -> Any:
        if "dim" in kwargs and f.__name__ in _WITH_POSITIONS:
            raise TypeError(
                f"{f.__name__}: with dim, PyTorch gives values and positions; write axis= for the values, and "
                f"argmax, argmin, argsort or topk for positions\n  at {here()}"
            )
        for theirs, ours in renamed.items():
            if theirs in kwargs:
                kwargs[ours] = kwargs.pop(theirs)
        return f(*args, **kwargs)

    return method


def table() -> dict[str, Any]:
    """Every attribute that `install` gives Tensor, by name."""
    out: dict[str, Any] = {}
    for name, f in _BINARY.items():
        out[f"__{name}__"], out[f"__r{name}__"] = _operator(f), _reflected(f)
        out[f"__i{name}__"] = _in_place(f, f"__i{name}__")
    for name, f in _COMPARE.items():
        out[f"__{name}__"] = _operator(f)
    out.update(_SPECIAL)
    for module, names in _SAME_NAME.items():
        for name in names.split():
            out[name] = _with_torch_keywords(getattr(module, name))
    for name, f in _OTHER_NAME.items():
        out[name] = _with_torch_keywords(f)
    for name, f in _PROPERTIES.items():
        out[name] = property(f)
    for name, f in _REBINDING.items():
        out[name] = _rebinding(f, name)
    return out


def install() -> None:
    """Attach operators and methods to Tensor. Doing it again changes nothing."""
    for name, attribute in table().items():
        setattr(Tensor, name, attribute)
    Tensor.__hash__ = object.__hash__
