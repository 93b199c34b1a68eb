"""Random numbers: counter-based (Threefry-2x32), the same for a seed on every target, inside and outside jit.

Element i of a draw is Threefry(key, counter + i), so a draw is a pointwise kernel without any state of its own. A
`Generator` holds key and counter in a Tensor that each draw assigns; `jit` turns that into an input and a donated
output, so that every call of a compiled function draws new numbers.

The functions take either the default generator, a `generator=`, or a `key=` (see `key` and `split`), with which equal
keys give equal numbers. Under `vmap`, example e draws at counter + e * count from a generator, and what its key says
from a key.
"""

from __future__ import annotations

import copy
import math
import operator
from typing import Any

import numpy as np

from dlc.base import forks
from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array.axes import normalize_axis, shape_tuple, spread
from dlc.frontend.array.elementwise import add, less, multiply, subtract
from dlc.frontend.array.manipulation import moveaxis
from dlc.frontend.array.operands import host_constant
from dlc.frontend.array.reductions import argmax
from dlc.frontend.array.sorting import topk
from dlc.frontend.array.unary import log, negative
from dlc.frontend.core import places
from dlc.frontend.core.location import user_errors
from dlc.frontend.core.operands import as_dtype, as_node
from dlc.frontend.core.tensor import Tensor, wrap
from dlc.frontend.core.trace import state as tracing
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph import nodes as b
from dlc.ir.graph.graph import Node, check_size

_LOW_WORD = 0xFFFFFFFF
_SPLIT = 0xFFFFFFFF << 32  # counters that draws never reach: from here `split` makes keys
_FOLD = 0xFFFFFFFE << 32


class RandomState(Tensor):
    """The state of a Generator: it goes to the device of the program that draws from it."""

    __slots__ = ()
    follows = True


class Generator:
    """A stream of random numbers. `state` is its uint64 [key, counter], a Tensor that can be saved and assigned."""

    def __init__(self, seed: int = 0):
        self.state = RandomState(_seeded(seed), device="cpu")
        self._lock = forks.lock()

    def manual_seed(self, seed: int) -> Generator:
        """Start again at the beginning of the stream that belongs to `seed`."""
        self.state._write(host_constant(_seeded(seed)))
        return self

    seed = manual_seed

    def __repr__(self) -> str:
        return f"Generator(state={self.state!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self._lock = forks.lock()

    def __copy__(self) -> Generator:
        """A stream of its own that goes on where this one stands: two with one `state` would give the same numbers."""
        return copy.deepcopy(self)

    def take(self, count: int) -> tuple[Node, Node]:
        """(key, counter) as uint64 scalars for `count` blocks, which are then spent."""
        if tracing.trace is None:
            with self._lock:  # host arithmetic: eager draws must neither pile up a graph nor share a counter
                now = self.state.numpy().copy()
                self.state._write(host_constant(now + np.array([0, count], np.uint64)))
            return host_constant(now[0]), host_constant(now[1])
        node = self.state.node
        key, counter = (b.reshape(b.slice_(node, (k,), (k + 1,), None), ()) for k in (0, 1))
        for number, examples in self._examples():
            counter = counter + number * count
            count *= examples
        step = host_constant(np.array([0, count], np.uint64))
        self.state.assign(wrap(node + step))
        return key, counter

    def _examples(self) -> list[tuple[Node, int]]:
        """The `vmap`s between here and where the state lives, innermost first: each example gets numbers of its own."""
        trace, found = tracing.trace, []
        while trace is not None and trace is not self.state._owner:
            if trace.example is not None:
                found.append(trace.example)
            trace = trace.parent
        return found


def _seeded(seed: int) -> np.ndarray:
    return np.array([operator.index(seed) & 0xFFFFFFFFFFFFFFFF, 0], np.uint64)


default_generator = Generator(0)


def manual_seed(seed: int) -> Generator:
    """Seed the default generator (any integer, taken modulo 2**64) and return it."""
    return default_generator.manual_seed(seed)


seed = manual_seed


# -- bits


def _words(x: Node) -> tuple[Node, Node]:
    """The high and the low uint32 word of a uint64."""
    high = b.op("shr", x, b.like(x, 32))
    low = b.op("and", x, b.like(x, _LOW_WORD))
    return b.cast(high, dtypes.uint32), b.cast(low, dtypes.uint32)


def _threefry(key: Node, counters: Node) -> Node:
    k0, k1 = (spread(k, counters.shape) for k in _words(key))
    return b.op("threefry", k0, k1, *_words(counters))


def _counters(first: Node, shape: tuple[int, ...]) -> Node:
    line = b.iota((math.prod(shape),), 0, dtypes.uint64)
    return b.reshape(line + spread(first, line.shape), shape)


def _draw(shape: tuple[int, ...], generator: Generator | None, key, blocks: int,
          device=None) -> list[Node]:  # fmt: skip
    """`blocks` independent tensors of 64 random bits an element."""
    if key is not None and generator is not None:
        raise ShapeError("random: give a key or a generator, not both")
    if any(d < 0 for d in shape):
        raise ShapeError(f"random: {shape} has a negative extent")
    check_size("random", shape)
    size = math.prod(shape)
    if key is not None:
        base, first = _key_node(key), b.const(0, dtypes.uint64, ())
    else:
        base, first = (generator or default_generator).take(size * blocks)
    out = []
    for k in range(blocks):
        start = first + k * size if k else first
        bits = _threefry(base, _counters(start, shape))
        free = places.several and (device is not None or key is None)
        out.append(places.pinned(bits, places.wanted(device)) if free else bits)
    return out


def _key_node(key) -> Node:
    node = as_node(key)
    if node.dtype is not dtypes.uint64 or node.ndim:
        got = f"{node.dtype.name}{list(node.shape)}"
        raise DTypeError(f"random: a key is a uint64 scalar from dlc.random.key, got {got}")
    return node


@user_errors
def key(seed: int) -> Tensor:
    """The key (a uint64 scalar) of a seed."""
    return wrap(host_constant(_seeded(seed)[0]))


@user_errors
def split(key, num: int = 2) -> Tensor:
    """uint64 [num]: new keys, independent of each other and of `key`, which should not be used again."""
    first = b.const(_SPLIT, dtypes.uint64, ())
    return wrap(_threefry(_key_node(key), _counters(first, (operator.index(num),))))


@user_errors
def fold_in(key, data) -> Tensor:
    """A new key from a key and an integer (a step, a layer); a traced scalar works."""
    n = b.cast(as_node(data), dtypes.uint64)
    if n.ndim:
        raise ShapeError(f"fold_in: data is a scalar, got shape {n.shape}")
    n = b.op("or", b.op("and", n, b.like(n, _LOW_WORD)), b.like(n, _FOLD))
    return wrap(_threefry(_key_node(key), n))


@user_errors
def bits(shape=(), *, generator: Generator | None = None, key=None) -> Tensor:
    """uint64: 64 random bits an element."""
    return wrap(_draw(shape_tuple("bits", shape), generator, key, 1)[0])


# -- floats

# bits of the significand, leading one included: every multiple of 2**-p in [0, 1) is exact
_PRECISION = {dtypes.float16: 11, dtypes.bfloat16: 8, dtypes.float32: 24, dtypes.float64: 53}


def _float_type(name: str, dtype: DType | None) -> DType:
    dtype = dtypes.float32 if dtype is None else as_dtype(name, dtype)
    if dtype not in _PRECISION:
        raise DTypeError(f"{name}: needs a float dtype, got {dtype!r}")
    return dtype


def _unit(x: Node, dtype: DType) -> Node:
    """uint64 bits as `dtype` in [0, 1)."""
    p = _PRECISION[dtype]
    top = b.op("shr", x, b.like(x, 64 - p))
    # through a signed type: machines convert those to floats faster
    whole = b.cast(b.cast(top, dtypes.int64 if p > 31 else dtypes.int32), dtype)
    return whole * 2.0**-p


def _open_unit(x: Node, dtype: DType) -> Node:
    """uint64 bits as float32 or float64 in (0, 1], with 31 (53) bits, so that its logarithm reaches far."""
    p = 53 if dtype is dtypes.float64 else 31
    top = b.cast(b.op("shr", x, b.like(x, 64 - p)), dtypes.int64 if p > 31 else dtypes.int32)
    whole = b.cast(top, dtype)
    return (whole + 1) * 2.0**-p


@user_errors
def uniform(
    shape=(), low=0.0, high=1.0, *, dtype: DType | None = None, generator: Generator | None = None, key=None,
    device=None,
) -> Tensor:
    """Floats evenly distributed in [low, high). `low` and `high` are numbers or tensors that broadcast to the shape."""
    dtype = _float_type("uniform", dtype)
    device = device if device is None else places.usable(device)
    out = wrap(_unit(_draw(shape_tuple("uniform", shape), generator, key, 1, device)[0], dtype))
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        out = multiply(out, high - low) if high - low != 1 else out
        return add(out, low) if low else out
    return add(multiply(out, subtract(high, low)), low)


@user_errors
def normal(
    shape=(), mean=0.0, std=1.0, *, dtype: DType | None = None, generator: Generator | None = None, key=None,
    device=None,
) -> Tensor:
    """Normally distributed floats (Box-Muller). `mean` and `std` are numbers or tensors that broadcast to the shape."""
    dtype = _float_type("normal", dtype)
    work, size = dtype.compute, shape_tuple("normal", shape)
    device = device if device is None else places.usable(device)
    x = _draw(size, generator, key, 2 if work is dtypes.float64 else 1, device)
    # float32 needs 31 and 24 bits: one block has both. float64 takes two blocks.
    angle = x[1] if len(x) > 1 else b.op("shl", x[0], b.like(x[0], 32))
    radius = b.op("log", _open_unit(x[0], work))
    radius = b.op("sqrt", radius * -2)
    turn = _unit(angle, work)
    turn = (turn - 0.5) * (2 * math.pi)
    out = wrap(b.cast(radius * b.op("cos", turn), dtype))
    out = out if isinstance(std, (int, float)) and std == 1 else multiply(out, std)
    return out if isinstance(mean, (int, float)) and mean == 0 else add(out, mean)


@user_errors
def rand(*shape, dtype: DType | None = None, generator: Generator | None = None, device=None) -> Tensor:
    """PyTorch's name: uniform in [0, 1), the shape given as integers or as one sequence."""
    return uniform(_shape("rand", shape), dtype=dtype, generator=generator, device=device)


@user_errors
def randn(*shape, dtype: DType | None = None, generator: Generator | None = None, device=None) -> Tensor:
    """PyTorch's name: standard normal, the shape given as integers or as one sequence."""
    return normal(_shape("randn", shape), dtype=dtype, generator=generator, device=device)


def _shape(name: str, args: tuple) -> tuple[int, ...]:
    return shape_tuple(name, args[0] if len(args) == 1 else args)


@user_errors
def exponential(shape=(), *, dtype: DType | None = None, generator: Generator | None = None, key=None) -> Tensor:
    """Exponentially distributed floats of mean 1."""
    dtype = _float_type("exponential", dtype)
    x = _draw(shape_tuple("exponential", shape), generator, key, 1)[0]
    return wrap(b.cast(negative(log(wrap(_open_unit(x, dtype.compute)))).node, dtype))


@user_errors
def gumbel(shape=(), *, dtype: DType | None = None, generator: Generator | None = None, key=None) -> Tensor:
    """Standard Gumbel floats: -log of exponential ones."""
    dtype = _float_type("gumbel", dtype)
    e = exponential(shape, dtype=dtype.compute, generator=generator, key=key).node
    e = b.op("max", e, b.like(e, 2.0**-33))  # exactly 0 would give infinity
    return wrap(b.cast(negative(log(wrap(e))).node, dtype))


# -- integers, choices and orders


@user_errors
def randint(
    low: int, high: int | None = None, shape=(), *, dtype: DType = dtypes.int64, generator: Generator | None = None,
    key=None, device=None,
):
    """Integers evenly distributed in [low, high), or in [0, low) if `high` is None."""
    low, high = (0, operator.index(low)) if high is None else (operator.index(low), operator.index(high))
    dtype = as_dtype("randint", dtype)
    if not dtype.is_int:
        raise DTypeError(f"randint: needs an integer dtype, got {dtype!r}")
    least, most = dtypes.limits(dtype)
    if not least <= low < high <= most + 1:
        raise ShapeError(f"randint: [{low}, {high}) is empty or goes beyond {dtype.name}")
    device = device if device is None else places.usable(device)
    x = _draw(shape_tuple("randint", shape), generator, key, 1, device)[0]
    span = high - low
    x = b.op("mod", x, b.like(x, span)) if span < 1 << 64 else x
    x = x + low if low else x  # modulo 2**64, as two's complement has it
    signed = b.make("bitcast", (x,), dtype=dtypes.int64) if dtype.kind == "i" else x
    return wrap(b.cast(signed, dtype))


integers = randint


@user_errors
def bernoulli(p, shape=None, *, dtype: DType = dtypes.bool_, generator: Generator | None = None, key=None) -> Tensor:
    """True (or 1 in `dtype`) with probability `p`, a number or a tensor; the shape is p's unless given."""
    if isinstance(p, (int, float)) and not 0 <= p <= 1:
        raise ShapeError(f"bernoulli: the probability {p} is outside [0, 1]")
    size = as_node(p).shape if shape is None else shape_tuple("bernoulli", shape)
    hit = less(uniform(size, generator=generator, key=key), p)
    return wrap(b.cast(hit.node, as_dtype("bernoulli", dtype)))


@user_errors
def dropout_mask(shape, keep, *, generator: Generator | None = None, key=None) -> Tensor:
    """bool: True with probability `keep`."""
    return bernoulli(keep, shape, generator=generator, key=key)


@user_errors
def permutation(x, axis: int = 0, *, generator: Generator | None = None, key=None) -> Tensor:
    """0 to x - 1 in random order if `x` is an integer, otherwise the slices of `x` along an axis in random order."""
    whole = not isinstance(x, Tensor) and np.ndim(x) == 0
    node = None if whole else as_node(x)
    axis = 0 if whole else normalize_axis("permutation", axis, node.ndim)
    count = operator.index(x) if whole else node.shape[axis]
    if count < 0:
        raise ShapeError(f"permutation: of {count} elements")
    keys = _draw((count,), generator, key, 1)[0]
    order = b.item(b.make("sort", (keys,), axis=0, descending=False), 1)
    if whole:
        return wrap(order)
    return wrap(b.make("gather", (node, order), axis=axis) if count else node)


randperm = permutation


@user_errors
def categorical(logits, axis: int = -1, shape=None, *, generator: Generator | None = None, key=None) -> Tensor:
    """int64 positions along `axis`, drawn with probabilities softmax(logits) (by the Gumbel maximum).

    The result has the shape of `logits` without `axis`; or `shape`, whose last axes must be that.
    """
    n = as_node(logits)
    a = normalize_axis("categorical", axis, n.ndim)
    rest = n.shape[:a] + n.shape[a + 1 :]
    size = rest if shape is None else shape_tuple("categorical", shape)
    lead = size[: len(size) - len(rest)]
    if size[len(lead) :] != rest:
        raise ShapeError(f"categorical: shape {size} does not end in {rest} (logits {n.shape} without axis {a})")
    noise = gumbel((*lead, *n.shape), dtype=n.dtype.compute if n.dtype.is_float else None, generator=generator, key=key)
    return argmax(add(wrap(n), noise), a + len(lead))


@user_errors
def multinomial(
    probabilities, num_samples: int, replacement: bool = False, *, generator: Generator | None = None, key=None
) -> Tensor:
    """int64 [..., num_samples]: positions in the last axis drawn by the weights there, which need not add up to 1.

    Without replacement all are different (ShapeError if there are too few); weights of 0 come last.
    """
    n, num = as_node(probabilities), operator.index(num_samples)
    if n.ndim == 0 or num < 1:
        raise ShapeError(f"multinomial: {num} samples by weights of shape {n.shape}")
    logits = log(wrap(n))
    if replacement:
        drawn = categorical(logits, -1, (num, *n.shape[:-1]), generator=generator, key=key)
        return moveaxis(drawn, 0, -1)
    if num > n.shape[-1]:
        raise ShapeError(f"multinomial: {num} samples without replacement from {n.shape[-1]}")
    noise = gumbel(n.shape, dtype=logits.dtype.compute, generator=generator, key=key)
    return topk(add(logits, noise), num)[1]
