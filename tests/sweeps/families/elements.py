"""Functions of single elements, with broadcasting, in every type; casts between all; moves of elements."""

from __future__ import annotations

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import INTEGERS, cast, float_type, numbers, shape_of, whole

# Functions and the values that they take: a NumPy expression of normal values z.
_FUNCTIONS = {
    "sin": "z", "cos": "3 * z", "tan": "0.5 * np.tanh(z)", "tanh": "z", "exp": "z", "expm1": "z", "exp2": "z",
    "erf": "z", "sinh": "z", "cosh": "z", "asinh": "z", "atan": "z", "sigmoid": "z", "square": "z",
    "asin": "0.9 * np.tanh(z)",
    "acos": "0.9 * np.tanh(z)", "atanh": "0.9 * np.tanh(z)", "log": "0.1 + np.abs(z)", "log2": "0.1 + np.abs(z)",
    "log10": "0.1 + np.abs(z)", "log1p": "np.abs(z)", "sqrt": "0.1 + np.abs(z)", "rsqrt": "0.1 + np.abs(z)",
    "acosh": "1.1 + np.abs(z)", "reciprocal": "1 + np.abs(z)",
}  # fmt: skip
_ROUNDED = ("floor", "ceil", "trunc", "round", "sign", "abs", "negative", "isfinite", "signbit")


def _operands(d: Draw, most: int = 40_000) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape and one that broadcasts with it."""
    shape = shape_of(d, d.integer(0, 4), most, 2000)
    kind = d.one_of(("same", "same", "row", "ones", "scalar"))
    if kind == "row":
        other = shape[d.integer(0, len(shape)):]
    elif kind == "ones":
        other = tuple(1 if d.chance(50) else extent for extent in shape)
    else:
        other = shape if kind == "same" else ()
    return (shape, other) if d.chance(50) else (other, shape)


def functions(d: Draw) -> Case:
    """Smooth functions of one element, alone or two in a row."""
    name = d.one_of(tuple(_FUNCTIONS))
    shape = shape_of(d, d.integer(0, 3), 40_000, 4000)
    dtype = float_type(d)
    x = cast(f"np.asarray((lambda z: {_FUNCTIONS[name]})(r.standard_normal({shape})))", dtype)
    after = d.one_of(("", "", " * 2", " + x", ".sum()"))
    return Case({"x": x}, f"return dlc.{name}(x){after}", f"return torch.{name}(x){after}", kind="smooth", wrt=("x",),
                dtype=dtype, terms=40_000 if "sum" in after else 1)


def pairs(d: Draw) -> Case:
    """Functions of two elements, broadcast against each other."""
    a, b = _operands(d)
    dtype = float_type(d)
    form = d.one_of(("x + y", "x * y", "x - y", "x / (1.5 + {n}.tanh(y))", "{n}.maximum(x, y)", "{n}.minimum(x, y)",
                     "{n}.atan2(x, 2 + {n}.abs(y))", "{n}.hypot(x, y)", "{n}.logaddexp(x, y)",
                     "(1.5 + {n}.abs(x)) ** y", "{n}.where(x > y, x, y * 2)", "{n}.lerp(x, y, 0.3)",
                     "{n}.copysign(x, y)", "x * y + x", "x * y - x * x"))
    arrays = {n: cast(f"np.asarray(r.standard_normal({s}))", dtype) for n, s in zip("xy", (a, b), strict=True)}
    return Case(arrays, f"return {form.format(n='dlc')}", f"return {form.format(n='torch')}", kind="smooth",
                wrt=("x", "y"), dtype=dtype, terms=40_000)


def integers(d: Draw) -> Case:
    """Integer arithmetic, which wraps; division rounds down."""
    a, b = _operands(d)
    dtype = d.one_of(INTEGERS)
    form = d.one_of(("x + y", "x - y", "x * y", "x // y", "x % y", "x & y", "x | y", "x ^ y", "~x", "-x", "x << s",
                     "x >> s", "{n}.maximum(x, y)", "{n}.minimum(x, y)", "x < y", "x == y", "{n}.abs(x)", "x * 3 + y",
                     "{n}.sign(x)",
                     "{n}.square(x)", "(x > y) & (x != 3)", "{n}.where(x > y, x, y)", "{n}.clip(x, 1, 100)"))
    info = f"np.iinfo('{dtype}')"
    big = f"r.integers({info}.min, {info}.max, {{}}, dtype='{dtype}', endpoint=True)"
    arrays = {name: f"np.asarray({big.format(shape)})" for name, shape in zip("xy", (a, b), strict=True)}
    if "/" in form or "%" in form:
        arrays["y"] = f"np.asarray(r.choice([1, 2, 3, 7, 100, {info}.max], {b}).astype('{dtype}'))"
    bits = int(dtype.lstrip("uint"))
    arrays["s"] = f"np.asarray(r.integers(0, {bits}, {a}).astype('{dtype}'))"
    return Case(arrays, f"return {form.format(n='dlc')}", f"return {form.format(n='np')}", kind="exact", numpy=True)


def casts(d: Draw) -> Case:
    """From every type to every other, and what is exact of floats."""
    shape = shape_of(d, d.integer(1, 3), 20_000, 3000)
    types = ("float32", "float64", "float16", "bfloat16", *INTEGERS, "bool")
    source, target = d.one_of(types), d.one_of(types)
    if d.chance(30):
        name = d.one_of(_ROUNDED)
        dtype = d.one_of(("float32", "float64", "float16", "bfloat16"))
        x = cast(f"(r.integers(-40, 40, {shape}) / 4)", dtype)
        return Case({"x": x}, f"return dlc.{name}(x)", f"return np.{name}(x)", kind="exact", numpy=True)
    low = 0 if "uint" in source + target else -100
    x = cast(f"r.integers({low}, 100, {shape})", source)
    if source.startswith(("float", "bfloat")) and d.chance(50):
        x = cast(f"(r.integers({4 * low}, 400, {shape}) / 4)", source)
    as_target = "ml_dtypes.bfloat16" if target == "bfloat16" else f"'{target}'"
    narrow = target in ("float16", "bfloat16")
    theirs = f"x.astype({as_target})"
    if narrow:
        theirs += ".astype('float64')"
    middle = d.one_of(("", "", ".swapaxes(0, -1)", "[::2]", " * 1"))
    if source == "bool" and "*" in middle:
        middle = ""
    ours = f"(x{middle}).astype(dlc.{target})"
    return Case({"x": x}, f"return {ours}", f"x = (x{middle})\nreturn {theirs}", kind="exact", numpy=True)


def moves(d: Draw) -> Case:
    """concat, stack, split, repeat, roll, flip, transposes, broadcasts, diagonals, windows: values and gradients."""
    shape = shape_of(d, d.integer(2, 4), 20_000, 1500)
    dtype = float_type(d)
    axis = d.integer(0, len(shape) - 1)
    other = list(shape)
    other[axis] = d.extent(50)
    shift, at = d.integer(-shape[axis], shape[axis]), d.integer(0, len(shape))
    parts = d.integer(1, min(6, shape[axis]))
    axes = tuple(d.shuffled(range(len(shape))))
    k = d.integer(1, min(5, shape[axis]))
    step = d.integer(1, 3)
    ours, theirs = d.one_of((
        (f"dlc.concat([x, y], axis={axis})", f"torch.cat([x, y], {axis})"),
        (f"dlc.concat([x, y, x], axis={axis})", f"torch.cat([x, y, x], {axis})"),
        (f"dlc.stack([x, x * 2], axis={at})", f"torch.stack([x, x * 2], {at})"),
        (f"tuple(dlc.chunk(x, {parts}, {axis}))", f"tuple(torch.chunk(x, {parts}, {axis}))"),
        (f"dlc.roll(x, {shift}, {axis})", f"torch.roll(x, {shift}, {axis})"),
        (f"dlc.flip(x, ({axis},))", f"torch.flip(x, ({axis},))"),
        (f"dlc.repeat(x, 3, {axis})", f"torch.repeat_interleave(x, 3, {axis})"),
        ("dlc.tile(x, (2, 3))", "torch.tile(x, (2, 3))"),
        (f"dlc.permute_dims(x, {axes})", f"torch.permute(x, {axes})"),
        (f"dlc.permute_dims(x, {axes}) + 1", f"torch.permute(x, {axes}) + 1"),
        (f"dlc.permute_dims(x, {axes}).reshape(-1)", f"torch.permute(x, {axes}).reshape(-1)"),
        ("dlc.diagonal(x)", "torch.diagonal(x, 0, -2, -1)"),
        ("dlc.tril(x)", "torch.tril(x)"),
        ("dlc.triu(x, k=1)", "torch.triu(x, 1)"),
        (f"dlc.unfold(x, {axis}, {k}, {step})", f"x.unfold({axis}, {k}, {step})"),
        (f"dlc.unfold(x, {axis}, {k}, {step}).sum(-1)", f"x.unfold({axis}, {k}, {step}).sum(-1)"),
        (f"dlc.moveaxis(x, {axis}, 0)", f"torch.movedim(x, {axis}, 0)"),
        (f"dlc.broadcast_to(x, {(3, *shape)})", f"torch.broadcast_to(x, {(3, *shape)})"),
        (f"dlc.narrow(x, {axis}, 0, {k})", f"torch.narrow(x, {axis}, 0, {k})"),
        ("dlc.concat([x[..., ::2], x[..., 1::2]], axis=-1)", "torch.cat([x[..., ::2], x[..., 1::2]], -1)"),
    ))  # fmt: skip
    return Case({"x": numbers(d, shape, dtype), "y": numbers(d, other, dtype)}, f"return {ours}", f"return {theirs}",
                wrt=("x", "y") if "[x, y" in ours else ("x",),
                dtype=dtype, roundings=3)


def creation(d: Draw) -> Case:
    """What is made of numbers and then meets an argument."""
    n, m = shape_of(d, 2, 20_000)
    ours, theirs = d.one_of((
        ("dlc.arange({n})[:, None] + x", "np.arange({n})[:, None] + x"),
        ("dlc.eye({n}, {m}) * x", "np.eye({n}, {m}) * x"),
        ("dlc.where(dlc.arange({m}) < 7, x, 0.0)", "np.where(np.arange({m}) < 7, x, 0)"),
        ("dlc.one_hot(i, {m}).astype(dlc.float32) * x", "np.eye({m})[i] * x"),
        ("dlc.full(({n}, {m}), 3.0) - x", "3 - x"),
        ("dlc.concat([x, dlc.zeros(({n}, 3))], axis=1)", "np.concatenate([x, np.zeros(({n}, 3))], axis=1)"),
    ))  # fmt: skip
    index = d.one_of(("int64", "int32", "uint8"))
    arrays = {"x": whole((n, m), "float32", -3, 4), "i": whole((n,), index, 0, min(m, 200))}
    return Case(arrays, f"return {ours.format(n=n, m=m)}", f"return {theirs.format(n=n, m=m)}", kind="exact",
                numpy=True)


FAMILIES = {f.__name__: f for f in (functions, pairs, integers, casts, moves, creation)}
