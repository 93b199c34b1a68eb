"""Random programs of 3 to 20 operations, at real sizes.

`programs` compute with whole numbers (float32 ones small enough to be exact, int32 and int64 ones wrap), so that every
element must agree. `smooth_programs` have gradients. `states` update tensors in compiled steps: assignments in any
order, in memory that is donated; `loops` do so in the carry of a scan; `optimizers` train.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import cast, normal, shape_of, size, whole

_MOST = 200_000  # elements of a value
_EXACT = 1 << 20  # float32 values beyond are cut


@dataclass
class _Value:
    """A variable: its type, and a bound of the magnitude of its elements (of floats)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bound: float


class _Maker:
    """Writes a program line by line, for dlc and for NumPy or PyTorch."""

    def __init__(self, d: Draw):
        self.d = d
        self.arrays: dict[str, str] = {}
        self.values: list[_Value] = []
        self.ours: list[str] = []
        self.theirs: list[str] = []

    def argument(self, shape: tuple[int, ...], dtype: str, text: str, bound: float = 2) -> _Value:
        value = _Value(f"x{len(self.arrays)}", shape, dtype, bound)
        self.arrays[value.name] = text
        self.values.append(value)
        return value

    def pick(self, *dtypes: str) -> _Value | None:
        """One of the values, mostly a late one."""
        fits = [v for v in self.values if not dtypes or v.dtype in dtypes]
        if not fits:
            return None
        last = len(fits) - 1
        return fits[last - min(self.d.integer(0, last), self.d.integer(0, last))]

    def fitting(self, x: _Value) -> tuple[str, float]:
        """An operand for `x`: of its shape, a row of it, one to the left of it, or a number; and its bound."""
        same = [v for v in self.values if v.dtype == x.dtype and v.shape == x.shape]
        rows = [v for v in self.values if v.dtype == x.dtype and 0 < len(v.shape) < len(x.shape)
                and v.shape == x.shape[len(x.shape) - len(v.shape):]]
        choice = self.d.integer(0, 3)
        if choice == 3 and rows:
            row = self.d.one_of(rows)
            return row.name, row.bound
        if choice >= 1:
            value = self.d.one_of(same)
            return value.name, value.bound
        number = self.d.integer(1, 5)
        return str(number), number

    def add(self, ours: str, theirs: str, shape: tuple[int, ...], dtype: str, bound: float) -> _Value:
        """A line that defines a new value."""
        value = _Value(f"v{len(self.ours)}", tuple(shape), dtype, bound)
        self.ours.append(f"{value.name} = {ours}")
        self.theirs.append(f"{value.name} = {theirs}")
        self.values.append(value)
        return value

    def case(self, kind: str, numpy: bool, wrt: tuple[str, ...] = ()) -> Case:
        """The program, with its last value and perhaps one more as results."""
        out = [self.values[-1]]
        other = self.d.one_of(self.values)
        if other.name not in self.arrays and other is not out[0]:
            out.append(other)
        out.sort(key=lambda v: v.dtype.startswith("int"))
        end = f"return {', '.join(v.name for v in out)}"
        return Case(self.arrays, "\n".join([*self.ours, end]), "\n".join([*self.theirs, end]), kind=kind, numpy=numpy,
                    wrt=wrt, terms=4000 if kind == "smooth" else 1)


def _elementwise(m: _Maker, x: _Value) -> _Value | None:
    y, bound = m.fitting(x)
    op = m.d.one_of(("+", "-", "*", "maximum", "minimum"))
    if op in ("+", "-", "*"):
        return m.add(f"{x.name} {op} {y}", f"{x.name} {op} {y}", x.shape, x.dtype,
                     x.bound * bound if op == "*" else x.bound + bound)
    return m.add(f"dlc.{op}({x.name}, {y})", f"np.{op}({x.name}, {y})", x.shape, x.dtype, max(x.bound, bound))


def _unary(m: _Maker, x: _Value) -> _Value | None:
    op = m.d.one_of(("-{}", "{n}.abs({})", "{n}.maximum({}, 0)", "{n}.where({} > 1, {}, -2)", "{n}.clip({}, -3, 4)",
                     "{n}.square({})"))
    bound = x.bound**2 if "square" in op else max(x.bound, 4)
    return m.add(op.replace("{}", x.name).replace("{n}", "dlc"), op.replace("{}", x.name).replace("{n}", "np"),
                 x.shape, x.dtype, bound)


def _select(m: _Maker, x: _Value) -> _Value | None:
    y, bound = m.fitting(x)
    z, other = m.fitting(x)
    test = m.d.one_of(("<", ">", "<=", "==", "!="))
    line = f"where({x.name} {test} {z}, {x.name}, {y})"
    return m.add(f"dlc.{line}", f"np.{line}", x.shape, x.dtype, max(x.bound, bound))


def _reduce(m: _Maker, x: _Value) -> _Value | None:
    if not x.shape or not size(x.shape):
        return None
    axis = m.d.integer(0, len(x.shape) - 1)
    keep = m.d.chance(40)
    shape = (*x.shape[:axis], *((1,) if keep else ()), *x.shape[axis + 1 :])
    op = m.d.one_of(("sum", "max", "min", "argmax"))
    line = f"{op}({x.name}, axis={axis}, keepdims={keep})"
    dtype = "int64" if op == "argmax" or (op == "sum" and x.dtype.startswith("int")) else x.dtype
    return m.add(f"dlc.{line}", f"np.{line}", shape, dtype, x.bound * x.shape[axis] if op == "sum" else x.bound)


def _shape(m: _Maker, x: _Value) -> _Value | None:
    if not x.shape:
        return None
    axis = m.d.integer(0, len(x.shape) - 1)
    extent = x.shape[axis]
    kind = m.d.one_of(("transpose", "reshape", "flip", "roll", "slice", "pad", "edge", "expand", "repeat", "tile"))
    many = size(x.shape) * 3 > _MOST
    if kind == "transpose":
        axes = tuple(m.d.shuffled(range(len(x.shape))))
        line, shape = f"transpose({x.name}, {axes})", tuple(x.shape[a] for a in axes)
    elif kind == "reshape":
        shape = m.d.one_of(((size(x.shape),), (*x.shape[:axis], 1, *x.shape[axis:]),
                            (*x.shape[:-2], size(x.shape[-2:]))))
        line = f"reshape({x.name}, {shape})"
    elif kind == "flip":
        line, shape = f"flip({x.name}, {axis})", x.shape
    elif kind == "roll":
        line, shape = f"roll({x.name}, {m.d.integer(-extent, extent)}, {axis})", x.shape
    elif kind == "slice":
        start = m.d.integer(0, extent - 1)
        stop, step = m.d.integer(start + 1, extent), m.d.one_of((1, 1, 2, -1, 3))
        part = f"{start}:{stop}:{step}" if step > 0 else f"{stop - 1}:{start - 1 if start else ''}:-1"
        shape = (*x.shape[:axis], len(range(start, stop, abs(step))), *x.shape[axis + 1 :])
        text = f"{x.name}[{':, ' * axis}{part}]"
        return m.add(text, text, shape, x.dtype, x.bound)
    elif many:
        return None
    elif kind in ("pad", "edge"):
        low, high = m.d.integer(0, 3), m.d.integer(0, 3)
        widths = tuple((low, high) if a == axis else (0, 0) for a in range(len(x.shape)))
        mode = "mode='edge'" if kind == "edge" else "mode='constant', constant_values=1"
        line = f"pad({x.name}, {widths}, {mode})"
        shape = (*x.shape[:axis], extent + low + high, *x.shape[axis + 1 :])
    elif kind == "expand":
        line, shape = f"broadcast_to({x.name}, {(3, *x.shape)})", (3, *x.shape)
    else:
        line = f"repeat({x.name}, 2, {axis})" if kind == "repeat" else f"tile({x.name}, 2)"
        axis = axis if kind == "repeat" else len(x.shape) - 1
        shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return m.add(f"dlc.{line}", f"np.{line}", shape, x.dtype, x.bound)


def _join(m: _Maker, x: _Value) -> _Value | None:
    if not x.shape or 2 * size(x.shape) > _MOST:
        return None
    same = [v for v in m.values if v.dtype == x.dtype and v.shape == x.shape]
    y = m.d.one_of(same)
    axis = m.d.integer(0, len(x.shape) - 1)
    if m.d.chance(50):
        shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
        line = f"concatenate([{x.name}, {y.name}], axis={axis})"
    else:
        shape = (*x.shape[:axis], 2, *x.shape[axis:])
        line = f"stack([{x.name}, {y.name}], axis={axis})"
    return m.add(f"dlc.{line}", f"np.{line}", shape, x.dtype, max(x.bound, y.bound))


def _matmul(m: _Maker, x: _Value) -> _Value | None:
    if len(x.shape) < 2 or x.dtype != "float32":
        return None
    k, n = x.shape[-1], m.d.extent(100)
    if size(x.shape) * n > 1 << 22 or size(x.shape[:-1]) * n > _MOST:
        return None
    w = m.argument((k, n), "float32", whole((k, n), "float32", -2, 3))
    return m.add(f"{x.name} @ {w.name}", f"{x.name} @ {w.name}", (*x.shape[:-1], n), x.dtype, 2 * k * x.bound)


def _ordered(m: _Maker, x: _Value) -> _Value | None:
    if not x.shape:
        return None
    axis = m.d.integer(0, len(x.shape) - 1)
    kind = m.d.one_of(("cumsum", "sort", "take", "count", "window", "put"))
    extent = x.shape[axis]
    if kind == "cumsum":
        line, shape, bound = f"cumsum({x.name}, {axis})", x.shape, x.bound * extent
        dtype = "int64" if x.dtype.startswith("int") else x.dtype
    elif kind == "sort":
        line, shape, bound, dtype = f"sort({x.name}, axis={axis})", x.shape, x.bound, x.dtype
    elif kind == "count":
        line, dtype, bound = f"count_nonzero({x.name} > 0, axis={axis})", "int64", extent
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    elif kind == "window":
        if extent < 3 or 3 * size(x.shape) > _MOST:
            return None
        shape, bound, dtype = (*x.shape[:axis], extent - 2, *x.shape[axis + 1 :]), x.bound, x.dtype
        line = f"max({{n}}sliding_window_view({x.name}, 3, axis={axis}), axis=-1)"
        return m.add("dlc." + line.replace("{n}", "dlc."),
                     "np." + line.replace("{n}", "np.lib.stride_tricks."), shape, dtype, bound)
    else:
        count = m.d.extent(200)
        if count * (size(x.shape) // extent) > _MOST:
            return None
        i = m.argument((count,), "int64", whole((count,), "int64", -extent, extent))
        if kind == "take":
            line, bound, dtype = f"take({x.name}, {i.name}, axis={axis})", x.bound, x.dtype
            shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        else:
            return m.add(f"{x.name}.at[{':, ' * axis}{i.name}].add(1)",
                         f"added({x.name}, {axis}, {i.name})", x.shape, x.dtype, x.bound + count)
    return m.add(f"dlc.{line}", f"np.{line}", shape, dtype, bound)


def _cast(m: _Maker, x: _Value) -> _Value | None:
    to = m.d.one_of(("float32", "int32", "int64"))
    if x.dtype.startswith("int") and to == "float32":
        return m.add(f"dlc.clip({x.name}, -9, 9).astype(dlc.float32)", f"np.clip({x.name}, -9, 9).astype('float32')",
                     x.shape, to, 9)
    return m.add(f"{x.name}.astype(dlc.{to})", f"{x.name}.astype('{to}')", x.shape, to, x.bound)


_RULES = (*[_elementwise] * 4, *[_unary] * 2, *[_select] * 2, *[_reduce] * 2, *[_shape] * 4, *[_join] * 2,
          *[_matmul] * 2, *[_ordered] * 3, _cast)

_ADDED = """\
def added(x, axis, i):
    x = x.copy()
    np.add.at(np.moveaxis(x, axis, 0), i, 1)
    return x
"""


def programs(d: Draw) -> Case:
    """Whole numbers: all that moves, chooses, counts and adds."""
    m = _Maker(d)
    for _ in range(d.integer(1, 3)):
        shape = shape_of(d, d.integer(1, 3), 20_000, 1000)
        dtype = d.one_of(("float32", "float32", "int32", "int64"))
        m.argument(shape, dtype, whole(shape, dtype, -2, 3))
    for _ in range(d.integer(3, 20)):
        x = m.pick()
        made = d.one_of(_RULES)(m, x) if x else None
        if made is not None and made.dtype == "float32" and made.bound > _EXACT:
            m.values.remove(made)
            m.add(f"dlc.clip({made.name}, -9, 9)", f"np.clip({made.name}, -9, 9)", made.shape, made.dtype, 9)
    if not m.ours:
        _unary(m, m.values[0])
    case = m.case("exact", numpy=True)
    return Case(**{**case.__dict__, "before": _ADDED})


# no gelu: 1 + erf far out on the left is a difference that has few digits, here and in PyTorch
_SMOOTH = ("{n}.tanh({x})", "{n}.sin({x})", "{f}.softmax({x}, -1)", "{f}.elu({x})", "{n}.exp({x} * 0.3)",
           "{x} / (1 + {x} * {x})", "{f}.layer_norm({x}, ({c},))", "{f}.silu({x})", "{n}.sqrt(1 + {x} * {x})")
_JOINED = ("{x} + {y}", "{x} * {y}", "{x} - {y}", "{n}.tanh({x}) * {y}", "{x} / (2 + {n}.cos({y} * {x}))")
_FOLDED = ("{n}.mean({x}, axis={a}, keepdims=True)", "{n}.sum({x} * 0.1, axis={a})", "{n}.logsumexp({x}, {a})",
           "{n}.cumsum({x} * 0.1, {a})", "{n}.var({x}, axis={a}, correction=0)")
_MOVED = ("{x}.swapaxes(0, -1)", "{x}.flip(0)", "{x}[..., ::2]", "{x}[1:]", "{n}.roll({x}, 1, 0)", "{x}[..., None] * w",
          "{n}.concat([{x}, {x} * 2], axis=-1)", "{x}[i]", "{n}.where({x} > 10, 0.0, {x})", "{x}.reshape(-1)",
          "{n}.stack([{x}, {x} * {x}], axis=0)")


def smooth_programs(d: Draw) -> Case:
    """Smooth functions, products and moves, with gradients."""
    m = _Maker(d)
    dtype = d.one_of(("float32", "float32", "float64"))
    for _ in range(d.integer(1, 2)):
        shape = shape_of(d, d.integer(1, 3), 5000, 600)
        m.argument(shape, dtype, normal(shape, dtype))
    m.arrays |= {"w": normal((2,), dtype), "i": whole((5,), "int64", 0, 2)}
    for _ in range(d.integer(3, 16)):
        x = m.pick()
        if x is None or not x.shape or size(x.shape) > 20_000:
            continue
        kind = d.one_of(("smooth", "smooth", "joined", "joined", "folded", "moved", "moved", "product"))
        axis = d.integer(0, len(x.shape) - 1)
        extents = list(x.shape)
        fill = {"x": x.name, "c": x.shape[-1], "a": axis}
        if kind == "smooth":
            line = d.one_of(_SMOOTH)
            if "layer_norm" in line and x.shape[-1] < 4:
                continue
        elif kind == "joined":
            line = d.one_of(_JOINED)
            fill["y"] = m.fitting(x)[0]
        elif kind == "folded":
            line = d.one_of(_FOLDED)
            if "keepdims" in line:
                extents[axis] = 1
            elif "cumsum" not in line:
                del extents[axis]
        elif kind == "product":
            n = d.extent(60)
            if size(x.shape[:-1]) * n > 20_000:
                continue
            w = m.argument((x.shape[-1], n), dtype, normal((x.shape[-1], n), dtype, 0.5))
            m.values.remove(w)
            line, extents[-1] = f"({{x}} @ {w.name} * {x.shape[-1] ** -0.5:.3f})", n
        else:
            line = d.one_of(_MOVED)
            if "swapaxes" in line:
                extents[0], extents[-1] = extents[-1], extents[0]
            elif "::2" in line:
                extents[-1] = -(-extents[-1] // 2)
            elif "[1:]" in line:
                if extents[0] < 2:
                    continue
                extents[0] -= 1
            elif "None" in line:
                extents.append(2)
            elif "concat" in line:
                extents[-1] *= 2
            elif "[i]" in line:
                if extents[0] < 2:
                    continue
                extents[0] = 5
            elif "reshape" in line:
                extents = [size(extents)]
            elif "stack" in line:
                extents.insert(0, 2)
        ours, theirs = (line.format(n=n, f=f, **fill) for n, f in (("dlc", "F"), ("torch", "T")))
        theirs = theirs.replace("axis=", "dim=").replace("keepdims", "keepdim")
        m.add(ours, theirs.replace("torch.concat([", "torch.cat(["), tuple(extents), dtype, 1)
    if not m.ours:
        m.add(f"dlc.tanh({m.values[0].name})", f"torch.tanh({m.values[0].name})", m.values[0].shape, dtype, 1)
    case = m.case("smooth", numpy=False, wrt=tuple(n for n in m.arrays if n != "i"))
    return Case(**{**case.__dict__, "dtype": dtype})


def states(d: Draw) -> Case:
    """Tensors that compiled steps assign to each other in any order, with arithmetic and without."""
    count = d.integer(2, 5)
    shape = shape_of(d, d.integer(1, 2), 20_000, 2000)
    dtype = d.one_of(("float32", "float32", "int32", "float64"))
    names = "abcde"[:count]
    arrays = {name: whole(shape, dtype, -2, 3) for name in names}
    ours, theirs = [], []
    ways = ("{y}", "{y} + 1", "-{y}", "{x} + {y}", "{n}.maximum({x}, {y})", "{y}[::-1]", "{n}.roll({y}, 1, 0)",
            "{y} + {z}", "{n}.where({x} > {y}, {x}, {z})")
    if d.chance(60):  # all at once: what is assigned is what was there before
        old = [f"old_{name}" for name in names]
        ours += [f"{o} = {name}.detach()" for o, name in zip(old, names, strict=True)]
        theirs += [f"{o} = {name}.copy()" for o, name in zip(old, names, strict=True)]
        for name, source in zip(d.shuffled(names), d.shuffled(old), strict=True):
            way = d.one_of(ways) if d.chance(40) else ways[0]
            other = d.one_of(old)
            expression = way.format(x=f"old_{name}", y=source, z=other, n="{n}")
            ours.append(f"{name}.assign({expression.replace('{n}', 'dlc')})")
            theirs.append(f"{name} = {expression.replace('{n}', 'np')}")
    else:
        for _ in range(d.integer(1, 6)):
            x, y, z = (d.one_of(names) for _ in range(3))
            way = d.one_of((*ways, "add", "part", "times"))
            if way == "add":
                ours.append(f"{x} += {y}")
                theirs.append(f"{x} = {x} + {y}")
            elif way == "times":
                ours.append(f"{x} *= 2")
                theirs.append(f"{x} = {x} * 2")
            elif way == "part":
                cut = d.integer(0, shape[0] - 1)
                ours.append(f"{x}[{cut}:] = {y}[{cut}:] + 1")
                theirs += [f"{x} = {x}.copy()", f"{x}[{cut}:] = {y}[{cut}:] + 1"]
            else:
                expression = way.format(x=x, y=y, z=z, n="{n}")
                ours.append(f"{x}.assign({expression.replace('{n}', 'dlc')})")
                theirs.append(f"{x} = np.array({expression.replace('{n}', 'np')})")
    steps = d.integer(1, 4)
    inside = "\n".join(f"    {line}" for line in ours)
    results = ", ".join(names)
    if any("+=" in line or "*=" in line for line in ours):
        inside = f"    nonlocal {results}\n{inside}"
    body = f"@dlc.jit\ndef step():\n{inside}\nfor _ in range({steps}):\n    step()\nreturn {results}"
    reference = f"for _ in range({steps}):\n" + "\n".join(f"    {line}" for line in theirs) + f"\nreturn {results}"
    return Case(arrays, body, reference, kind="exact", numpy=True, modes=("eager",))


def loops(d: Draw) -> Case:
    """scan: the parts of the carry change places, with arithmetic and without; rows go in and out."""
    count, length = d.integer(1, 4), d.integer(1, 12)
    shape = shape_of(d, d.integer(1, 2), 4000, 1000)
    dtype = d.one_of(("float32", "int32", "float64"))
    names = "abcd"[:count]
    arrays = {name: whole(shape, dtype, -2, 3) for name in names}
    arrays["xs"] = whole((length, *shape), dtype, -1, 2)
    parts = []
    for source in d.shuffled(names):
        other = d.one_of(names)
        parts.append(d.one_of(("{s}", "{s} + x", "{s} - {o}", "{n}.maximum({s}, {o} + x)", "{s}[::-1]")).format(
            s=source, o=other, n="{n}"))
    carry, out = f"({', '.join(parts)},)", d.one_of((f"{names[0]} + x", "x", f"{names[-1]} * 2"))
    reverse = d.chance(30)
    ours = (f"def body(carry, x):\n    {', '.join(names)}, = carry\n    return {carry.replace('{n}', 'dlc')}, {out}\n"
            f"carry, ys = dlc.scan(body, ({', '.join(names)},), xs, reverse={reverse})\nreturn (*carry, ys)")
    theirs = (f"ys = np.zeros_like(xs)\nfor t in {'reversed' if reverse else 'list'}(range({length})):\n    x = xs[t]\n"
              f"    ys[t] = {out}\n    {', '.join(names)}, = {carry.replace('{n}', 'np')}\n"
              f"return ({', '.join(names)}, ys)")
    return Case(arrays, ours, theirs, kind="exact", numpy=True)


def optimizers(d: Draw) -> Case:
    """A few compiled steps of training a small network."""
    i, h, o, n = d.extent(100), d.extent(100), d.extent(40), d.extent(40)
    name, options = d.one_of((
        ("SGD", "lr=0.1"), ("SGD", "lr=0.05, momentum=0.9"), ("SGD", "lr=0.05, momentum=0.9, nesterov=True"),
        ("SGD", "lr=0.1, weight_decay=0.1"), ("Adam", "lr=0.01, eps=0.01"), ("AdamW", "lr=0.01, eps=0.01"),
        ("Adam", "lr=0.01, eps=0.01, weight_decay=0.1"), ("Adam", "lr=0.01, eps=0.01, amsgrad=True"),
        ("RMSprop", "lr=0.01, eps=0.01"), ("RMSprop", "lr=0.01, eps=0.01, momentum=0.5, centered=True"),
    ))  # fmt: skip
    arrays = {"x": normal((n, i), "float32"), "y": normal((n, o), "float32"),
              "w": cast(f"(r.standard_normal(({i}, {h})) * {i ** -0.5:.3f})", "float32"), "b": normal((h,), "float32"),
              "v": cast(f"(r.standard_normal(({h}, {o})) * {h ** -0.5:.3f})", "float32")}
    steps = d.integer(1, 4)
    lines = f"for p in (w, b, v):\n    p.requires_grad = True\nopt = {{0}}.optim.{name}([w, b, v], {options})\n"
    step = ("def step():\n    opt.zero_grad()\n    loss = (({0}.tanh(x @ w + b) @ v - y) ** 2).mean()\n"
            "    loss.backward()\n    opt.step()\n    return loss\n")
    end = f"losses = [step() for _ in range({steps})]\n"
    ours = lines.format("dlc") + "@dlc.jit\n" + step.format("dlc") + end
    theirs = "w, b, v = (p.detach().clone() for p in (w, b, v))\n" + lines.format("torch") + step.format("torch") + end
    ours += "return (losses[-1], w, b, v)"
    theirs += "return tuple(p.detach() for p in (losses[-1], w, b, v))"
    return Case(arrays, ours, theirs, kind="smooth", modes=("eager",), terms=n * max(i, h))


FAMILIES = {f.__name__: f for f in (programs, smooth_programs, states, loops, optimizers)}
