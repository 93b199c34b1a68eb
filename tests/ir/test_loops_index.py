"""Integer analysis against enumeration: random expressions over small axes, and over all values of int8 and uint8 in
every integer type, where everything may wrap."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from dlc.ir import dtypes
from dlc.ir.loops import ir as loops
from dlc.ir.loops import traverse
from dlc.ir.loops.index import both, coefficient, flatten, is_position, linear, simplify, unflatten, whole_linear
from dlc.ir.loops.interp.values import evaluate_expr
from dlc.ir.loops.interval import interval
from dlc.ir.loops.ir import Buffer, axis, const, load, op


def _grid(axes):
    """All values of the axes, as an environment for `evaluate_expr`."""
    rows = list(itertools.product(*(range(a.attr[1]) for a in axes)))
    values = np.array(rows, np.int64).reshape(len(rows), len(axes))
    return {a: values[:, k] for k, a in enumerate(axes)}


def _values(e, env):
    out = evaluate_expr(e, env)
    return np.broadcast_to(out, (max((len(v) for v in env.values()), default=1),))


def _random_int(pick, axes, depth):
    if depth == 0 or pick.random() < 0.1:
        return pick.choice(axes) if pick.random() < 0.75 else const(pick.randint(-9, 12))
    name = pick.choice(("add", "add", "add", "sub", "mul", "mul", "floordiv", "floordiv", "mod", "mod", "neg", "min",
                        "max", "select"))  # fmt: skip
    a = _random_int(pick, axes, depth - 1)
    if name == "neg":
        return op("neg", a)
    if name in ("floordiv", "mod"):
        return op(name, a, const(pick.choice((1, 2, 2, 3, 4, 4, 5, 6, 8, 12))))
    if name == "mul" and pick.random() < 0.9:
        k = const(pick.choice((-3, -1, 0, 1, 2, 2, 3, 4, 5, 6, 12)))
        return op("mul", a, k) if pick.random() < 0.5 else op("mul", k, a)
    b = _random_int(pick, axes, depth - 1)
    if name == "select":
        return op("select", _random_bool(pick, axes, depth - 1), a, b)
    return op(name, a, b)


def _random_bool(pick, axes, depth):
    if depth > 0 and pick.random() < 0.5:
        if pick.random() < 0.2:
            return op("not", _random_bool(pick, axes, depth - 1))
        return op(pick.choice(("and", "or")), _random_bool(pick, axes, depth - 1), _random_bool(pick, axes, depth - 1))
    a, b = _random_int(pick, axes, max(depth - 1, 0)), _random_int(pick, axes, max(depth - 1, 0))
    return op(pick.choice(("lt", "le", "eq", "ne")), a, b)


def _axes(pick):
    return [axis(n, pick.choice((1, 2, 3, 4, 5, 6, 8))) for n in "ijk"[: pick.randint(1, 3)]]


@pytest.mark.parametrize("seed", range(400))
def test_simplify_and_bounds(seed):
    pick = random.Random(seed)
    axes = _axes(pick)
    env = _grid(axes)
    for _ in range(8):
        e = _random_int(pick, axes, pick.randint(1, 5))
        want = _values(e, env)
        s = simplify(e)
        np.testing.assert_array_equal(_values(s, env), want, f"{e!r} became {s!r}")
        assert simplify(s) is s, f"{s!r} is not in normal form: {simplify(s)!r}"
        for x in (e, s):
            low, high = interval(x)
            assert low <= want.min() and want.max() <= high, f"bounds of {x!r}: {low}, {high}"
        terms, constant = linear(e)
        total = constant + sum(k * _values(t, env) for t, k in terms.items())
        np.testing.assert_array_equal(np.broadcast_to(total, want.shape), want, repr(e))
        b = _random_bool(pick, axes, 3)
        np.testing.assert_array_equal(_values(simplify(b), env), _values(b, env), f"{b!r} became {simplify(b)!r}")


@pytest.mark.parametrize("seed", range(100))
def test_coefficient(seed):
    pick = random.Random(1000 + seed)
    axes = _axes(pick)
    for _ in range(10):
        e = simplify(_random_int(pick, axes, 3))
        for a in axes:
            k = coefficient(e, a)
            if k is None:
                continue
            values = _values(e, _grid(axes)).reshape([x.attr[1] for x in axes])
            steps = np.diff(values, axis=axes.index(a))
            assert (steps == k).all(), f"{e!r} along {a!r}: {k}"


def _random_shape(pick, size=None):
    if size is None:
        return tuple(pick.choice((1, 1, 2, 3, 4, 5, 6)) for _ in range(pick.randint(1, 4)))
    out = []
    while size > 1:
        d = pick.choice([k for k in range(2, size + 1) if size % k == 0])
        out.append(d)
        size //= d
    for _ in range(pick.randint(0, 2)):
        out.insert(pick.randint(0, len(out)), 1)
    return tuple(out)


def _index(shape):
    return tuple(axis("i", d) if d != 1 else const(0) for d in shape)


@pytest.mark.parametrize("seed", range(150))
def test_flatten_and_unflatten(seed):
    pick = random.Random(seed)
    shape = _random_shape(pick)
    index = _index(shape)
    axes = [i for i in index if i.op == "axis"]
    env = _grid(axes)
    flat = flatten(index, shape)
    np.testing.assert_array_equal(_values(flat, env), np.arange(math.prod(shape)))
    assert unflatten(flat, shape) == index  # there and back is nothing at all
    # a chain of reshapes keeps the position
    position, other = flat, shape
    for _ in range(3):
        other = _random_shape(pick, math.prod(shape))
        at = unflatten(position, other)
        for i, d in zip(at, other, strict=True):
            low, high = interval(i)
            assert 0 <= low and high < max(d, 1), f"{i!r} in {d}"
        position = flatten(at, other)
        np.testing.assert_array_equal(_values(position, env), np.arange(math.prod(shape)))
    assert position is flat


@pytest.mark.parametrize("seed", range(150))
def test_reshape_permute_towers(seed):
    """Views as the lowering composes them: reshape, permute, slice, flip; NumPy is the oracle."""
    pick = random.Random(5000 + seed)
    shape = _random_shape(pick)
    steps = []
    want = np.arange(math.prod(shape)).reshape(shape)
    for _ in range(pick.randint(1, 5)):
        kind = pick.choice(("reshape", "permute", "slice", "flip"))
        if kind == "reshape":
            new = _random_shape(pick, want.size)
            steps.append((kind, want.shape, new))
            want = want.reshape(new)
        elif kind == "permute":
            order = pick.sample(range(want.ndim), want.ndim)
            steps.append((kind, order, None))
            want = want.transpose(order)
        elif kind == "slice":
            cuts = []
            for d in want.shape:
                lo = pick.randint(0, d - 1)
                cuts.append((lo, pick.randint(lo + 1, d), pick.randint(1, 2)))
            steps.append((kind, cuts, None))
            want = want[tuple(slice(*c) for c in cuts)]
        else:
            axes = [a for a in range(want.ndim) if pick.random() < 0.5]
            steps.append((kind, axes, want.shape))
            want = np.flip(want, axes)
    index = top = _index(want.shape)
    for kind, a, b in reversed(steps):
        if kind == "reshape":
            index = unflatten(flatten(index, b), a)
        elif kind == "permute":
            inner = [const(0)] * len(a)
            for k, axis_number in enumerate(a):
                inner[axis_number] = index[k]
            index = tuple(inner)
        elif kind == "slice":
            index = tuple(simplify(i * st + lo) for i, (lo, _, st) in zip(index, a, strict=True))
        else:
            index = tuple(simplify(b[k] - 1 - i) if k in a else i for k, i in enumerate(index))
    got = flatten(index, shape)
    axes = [i for i in top if i.op == "axis"]
    np.testing.assert_array_equal(_values(got, _grid(axes)), want.ravel(), repr(got))


def test_loads_stay_atoms():
    x, j = load(Buffer("b", dtypes.int64, (7,)), axis("i", 7)), axis("j", 4)
    assert interval(x) == dtypes.limits(dtypes.int64)
    inside = op("max", op("min", x, const(99)), const(0))
    assert simplify((inside * 4 + j) // 4) is inside
    assert interval((x * 4 + j) // 4) == (-(1 << 61), (1 << 61) - 1)
    for e in ((j + x * 4) // 4, x * 3 % 3, (x + 1) // 5, op("lt", x, x + 1), op("min", x, x + 1)):
        assert simplify(e) is e  # they may wrap
    assert simplify(x * 2 - x) is x and simplify((x + 3) * 2 - 1) is x * 2 + 5  # modulo 2**64 all the same
    assert linear(x * (1 << 32) * (1 << 31) * 3) == ({x: -(1 << 63)}, 0)
    assert linear(x * (1 << 32) * (1 << 32)) == ({}, 0)


def test_intervals():
    i, j = axis("i", 10), axis("j", 4)
    u8 = load(Buffer("u", dtypes.uint8, (10,)), i)
    assert interval(i * 4 + j) == (0, 39)
    assert interval(3 - i) == (-6, 3)
    assert interval((i - 5) // 2) == (-3, 2)
    assert interval((i - 5) % 4) == (0, 3)
    assert interval(j % 8) == (0, 3)
    assert interval(op("max", i - 20, const(0))) == (0, 0)
    assert interval(op("abs", i - 5)) == (0, 5)
    assert interval(_cast(_cast(i, "uint8"), "int64")) == (0, 9)
    assert interval(_cast(_cast(i * 100, "uint8"), "int64")) == (0, 255)
    assert interval(op("select", i < j, i, j + 7)) == (0, 10)
    assert interval(u8) == (0, 255) == interval(_cast(u8, "int32")) and interval(_cast(u8, "int8")) == (-128, 127)
    assert interval(u8 + 1) == (0, 255) and interval(_cast(u8, "int16") + 1) == (1, 256)
    assert interval(op("shr", u8, const(3, dtypes.uint8))) == (0, 31)
    assert interval(op("and", u8, const(15, dtypes.uint8))) == (0, 15)


def test_intervals_at_the_limits_of_int64():
    i, x = axis("i", 64), load(Buffer("x", dtypes.int64, (9,)), axis("k", 9))
    u = load(Buffer("u", dtypes.uint64, (9,)), axis("k", 9))
    whole = dtypes.limits(dtypes.int64)
    low, high = whole
    assert interval(i * (1 << 57)) == (0, 63 << 57) and interval(i * (1 << 58)) == whole
    assert interval(x + 1) == interval(x * 2) == interval(op("neg", x)) == interval(op("abs", x)) == whole
    assert interval(op("max", x, const(0)) - 1) == (-1, high - 1) and interval(op("min", x, const(0)) - 1) == whole
    assert interval(_cast(u, "int64")) == whole
    assert interval(_cast(op("min", u, const(99, dtypes.uint64)), "int64")) == (0, 99)
    assert interval(x // -1) == whole and interval(x // 2) == (low // 2, high // 2)
    assert interval(x % (1 << 62)) == (0, (1 << 62) - 1) and interval(x % -7) == (-6, 0)
    # a difference is compared as a whole number: it need not fit into int64
    top, bottom = op("max", x, const(high - 5)), op("min", x, const(low + 5))
    assert simplify(op("lt", bottom, top)) is const(True, dtypes.bool_)
    assert simplify(op("eq", bottom, top)) is const(False, dtypes.bool_)


def test_constants_that_do_not_fit():
    x = load(Buffer("x", dtypes.int64, (9,)), axis("k", 9))
    low, high = dtypes.limits(dtypes.int64)
    for e in (op("max", x, const(9)) + (low - 3 + 9) - 6, op("min", op("max", x, const(0)), const(0)) * high * 4 + 1,
              op("max", x, const(0)) + low):
        s = simplify(e)
        assert all(low <= c.attr <= high for c in traverse.subexpressions(s) if c.op == "const"), s
        values = np.array([low, -1, 0, 1, 9, 12, high])
        np.testing.assert_array_equal(_values(s, {x: values}), _values(e, {x: values}))


def _cast(e, name):
    return loops.cast(e, dtypes.by_name(name))


_INTS = [d for d in dtypes.ALL if d.is_int]
_UNARY, _BINARY = ("neg", "abs", "sign", "not"), (
    "add", "add", "sub", "sub", "mul", "mul", "floordiv", "mod", "max", "min", "and", "or", "xor", "shl", "shr")


def _constant(pick, dtype):
    """A constant that is small, or near a limit or a power of two."""
    low, high = dtypes.limits(dtype)
    near = pick.choice((0, 0, low, high, high // 2, low // 2, 1 << pick.randrange(high.bit_length())))
    return const(min(max(near + pick.choice((-2, -1, 0, 1, 2, 3, 5, 8, 100)), low), high), dtype)


def _wrapping(pick, leaves, dtype, depth):
    """A random expression of an integer type over the leaves, all of whose operations may wrap."""
    if depth == 0:
        return loops.cast(pick.choice(leaves), dtype) if pick.random() < 0.8 else _constant(pick, dtype)
    shape = pick.random()
    if shape < 0.2:
        return loops.cast(_wrapping(pick, leaves, pick.choice(_INTS), depth - 1), dtype)
    if shape < 0.3:
        return op(pick.choice(_UNARY), _wrapping(pick, leaves, dtype, depth - 1))
    a = _wrapping(pick, leaves, dtype, depth - 1)
    b = _constant(pick, dtype) if pick.random() < 0.5 else _wrapping(pick, leaves, dtype, pick.randrange(depth))
    if shape < 0.4:
        return op("select", op(pick.choice(("lt", "le", "eq", "ne")), a, b), a, b)
    if shape < 0.5:
        c, d = sorted((_constant(pick, dtype), _constant(pick, dtype)), key=lambda e: e.attr)
        return op("min", op("max", a, c), d)
    if shape < 0.6:  # a row and a column as one position, or what is to be had from that
        high = dtypes.limits(dtype)[1]
        rows, wide = pick.choice((2, 5, 12, high // 8)), pick.choice((2, 3, 8, 12, min(high, 1 << 40)))
        row = op("min", op("max", a, const(0, dtype)), const(rows - 1, dtype))
        flat = op("add", op("mul", row, const(wide, dtype)), op("mod", b, const(wide, dtype)))
        return op(pick.choice(("floordiv", "mod", "sub")), flat, const(pick.choice((wide, rows, 2)), dtype))
    if pick.random() < 0.2:
        a, b = b, a
    return op(pick.choice(_BINARY), a, b)


@pytest.mark.parametrize("seed", range(12))
def test_what_wraps(seed):
    """Intervals hold every value, and no simplification changes one, where int8 and uint8 take all their values."""
    pick = random.Random(9000 + seed)
    i = axis("i", 1 << 16)
    leaves = [load(Buffer("s", dtypes.int8, (1 << 16,)), i), load(Buffer("u", dtypes.uint8, (1 << 16,)), i)]
    a, b = np.meshgrid(np.arange(-128, 128, dtype=np.int8), np.arange(256, dtype=np.uint8))
    env = {i: np.arange(1 << 16), leaves[0]: a.ravel(), leaves[1]: b.ravel()}
    some = np.random.default_rng(seed).choice(1 << 16, 300, replace=False)
    for _ in range(25):
        dtype = pick.choice([*_INTS, dtypes.int64, dtypes.int64, dtypes.int64])
        e = _wrapping(pick, leaves, dtype, pick.randint(1, 5))
        if pick.random() < 0.3:
            e = op(pick.choice(("lt", "le", "eq", "ne")), e, _wrapping(pick, leaves, dtype, pick.randint(0, 3)))
        want = _values(e, env)
        for x in traverse.subexpressions(e):
            low, high = interval(x)
            values = _values(x, env)
            assert low <= int(values.min()) and int(values.max()) <= high, f"{x!r} is not in {low}..{high}"
        s = simplify(e)
        np.testing.assert_array_equal(_values(s, env), want, f"{e!r} became {s!r}")
        assert simplify(s) is s, f"{s!r} is not in normal form: {simplify(s)!r}"
        few = {x: v[some] for x, v in env.items()}
        for form in (linear, whole_linear) if e.dtype is dtypes.int64 else (whole_linear,) if e.dtype.is_int else ():
            terms, constant = form(e)
            total = sum((k * _values(t, few).astype(object) for t, k in terms.items()), np.full(300, constant, object))
            if form is linear:
                total = (total + (1 << 63)) % (1 << 64) - (1 << 63)
            np.testing.assert_array_equal(total, _values(e, few).astype(object), f"{e!r} is not its {form.__name__}")


@pytest.mark.parametrize("text, want", [
    ("(i * 4 + j) // 4", "i"),
    ("(i * 4 + j) % 4", "j"),
    ("(i * 12 + j * 4 + k) // 4 % 3", "j"),
    ("(i * 4 + j) // 4 * 4 + (i * 4 + j) % 4", "i * 4 + j"),
    ("i // 2 * 2 + i % 2", "i"),
    ("(i * 4 + j) // 2 // 2", "i"),
    ("(i * 4 + j + 8) // 4", "i + 2"),
    ("(i * 4 + j - 8) // 4", "i - 2"),
    ("(i * 4 + j) % 2", "j % 2"),
    ("i * 0 + 3", "3"),
    ("j - j", "0"),
])  # fmt: skip
def test_normal_forms(text, want):
    names = {"i": axis("i", 6), "j": axis("j", 4), "k": axis("k", 4)}
    if "12" in text:
        names["j"] = axis("j", 3)
    assert simplify(loops.as_expr(eval(text, names))) is simplify(loops.as_expr(eval(want, names)))  # noqa: S307


def test_predicates():
    i = axis("i", 5)
    true, false = const(True, dtypes.bool_), const(False, dtypes.bool_)
    assert simplify(op("lt", i, const(5))) is true
    assert simplify(op("le", const(5), i)) is false
    assert both(None, None) is None
    p = op("lt", i, const(3))
    assert both(p, None) is p and both(None, p) is p and both(p, true) is p and both(p, p) is p


def test_positions_are_whole_numbers_for_certain():
    i, j = axis("i", 6), axis("j", 1 << 40)
    assert is_position(i // 3 * 3 + i % 3) and simplify(i // 3 * 3 + i % 3) is i
    x = load(Buffer("x", dtypes.int64, (9,)), i)
    assert not is_position(x + 1) and not is_position(op("neg", i))
    assert not is_position(j * (1 << 40))  # wraps round
    assert not is_position(loops.cast(i, dtypes.int32)) and not is_position(loops.cast(i, dtypes.int32) + 1)
