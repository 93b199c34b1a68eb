"""Index algebra against enumeration: random expressions over small axes, every value of every axis."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from dlc.ir import dtypes, loops
from dlc.ir.loops import Buffer, axis, const, load, op
from dlc.ir.loops_values import evaluate_expr
from dlc.passes.index_math import both, bounds, coefficient, flatten, is_position, linear, simplify, unflatten


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
            low, high = bounds(x)
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
            low, high = bounds(i)
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
    b = Buffer("b", dtypes.int64, (7,))
    i = axis("i", 7)
    e = (load(b, i) * 4 + axis("j", 4)) // 4
    assert simplify(e) is load(b, i)
    assert bounds(load(b, i))[0] < -(10**15)


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
