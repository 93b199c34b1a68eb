"""Elements by position: slices, gathers, scatters, with indices of every integer type, negative, repeated, outside."""

from __future__ import annotations

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import INDICES, INTEGERS, float_type, numbers, shape_of, whole

_MOST = 40_000  # elements
_LIMIT = {"int8": 127, "uint8": 255, "int16": 32767, "uint16": 65535}
_COMPILED = ("jit", "jit gradient")

# What an index means where it is not known when the program is made: negative ones count from the end, and those
# outside are clamped.
_POSITION = """\
def position(i, n):
    i = np.asarray(i)
    if i.dtype.kind == "i":
        i = i.astype(np.int64)
        i = np.where(i < 0, i + n, i)
    return np.clip(i, 0, n - 1).astype(np.int64)
"""


def _indices(d: Draw, shape: tuple[int, ...], extent: int, dtype: str, outside: bool = False) -> str:
    """Positions on an axis; where the type has a sign some are negative, and `outside` some lie beyond."""
    signed = dtype.startswith("int")
    limit = _LIMIT.get(dtype, 1 << 30)
    high = min(limit, extent - 1 if not outside else extent + extent // 2 + 3)
    low = max(-limit, -extent if not outside else -2 * extent - 3) if signed and d.chance(60) else 0
    return whole(shape, dtype, low, high + 1)


def slices(d: Draw) -> Case:
    """x[...] of integers, slices with steps of both signs, None and an ellipsis. PyTorch has no negative steps: there
    axes are flipped first."""
    shape = shape_of(d, d.integer(1, 4), _MOST)
    dtype = float_type(d)
    ours, theirs, flipped = [], [], []
    for axis, extent in enumerate(shape):
        kind = d.one_of(("slice", "slice", "backwards", "all", "number", "new"))
        start = d.integer(0, extent - 1)
        stop, step = d.integer(start + 1, extent), d.one_of((1, 1, 2, 3, 7, extent + 1))
        if kind == "number":
            texts = (str(d.one_of((start, start - extent))),) * 2
        elif kind == "slice":
            texts = (f"{d.one_of((start, start - extent))}:{stop}:{step}", f"{start}:{stop}:{step}")
        elif kind == "backwards":
            flipped.append(axis)
            texts = (f"{stop - 1}:{start - 1 if start else ''}:{-step}", f"{extent - stop}:{extent - start}:{step}")
        else:
            texts = ("None, :",) * 2 if kind == "new" else (":", ":")
        ours.append(texts[0])
        theirs.append(texts[1])
    if ours[-1] == ":" and d.chance(50):
        ours[-1] = "..."
    return Case({"x": numbers(d, shape, dtype)}, f"return x[{', '.join(ours)}]",
                f"return x.flip({flipped})[{', '.join(theirs)}]", wrt=("x",), dtype=dtype)


def gathers(d: Draw) -> Case:
    """x[i], take, index_select, take_along_axis, gather, embedding: values and gradients."""
    dtype = float_type(d)
    index = d.one_of(INDICES)
    rows, columns = shape_of(d, 2, _MOST)
    count = d.extent(300)
    form = d.one_of(("rows", "columns", "take", "pairs", "along", "gather", "embedding", "two axes", "select"))
    x = numbers(d, (rows, columns), dtype)
    if form == "pairs":
        arrays = {"x": x, "i": _indices(d, (count,), rows, index),
                  "j": _indices(d, (count,), columns, d.one_of(INDICES))}
        return Case(arrays, "return x[i, j]", f"return x[{_wrapped('i', rows)}, {_wrapped('j', columns)}]", wrt=("x",),
                    dtype=dtype)
    if form == "two axes":
        shape = (d.extent(20), d.extent(20))
        arrays = {"x": x, "i": _indices(d, shape, rows, index)}
        return Case(arrays, "return x[i]", f"return x[{_wrapped('i', rows)}]", wrt=("x",), dtype=dtype)
    if form in ("along", "gather"):
        axis = d.integer(0, 1)
        shape = (count % 40 + 1, columns) if axis == 0 else (rows, count % 40 + 1)
        arrays = {"x": x, "i": _indices(d, shape, (rows, columns)[axis], index)}
        ours = f"dlc.take_along_axis(x, i, axis={axis})" if form == "along" else f"dlc.gather(x, {axis}, i)"
        return Case(arrays, f"return {ours}",
                    f"return torch.gather(x, {axis}, {_wrapped('i', (rows, columns)[axis])})", wrt=("x",), dtype=dtype)
    axis = 1 if form == "columns" else d.integer(0, 1) if form in ("take", "select") else 0
    extent = (rows, columns)[axis]
    ours = {"rows": "x[i]", "columns": "x[:, i]", "take": f"dlc.take(x, i, axis={axis})",
            "embedding": "F.embedding(i, x)", "select": f"dlc.index_select(x, {axis}, i)"}[form]
    arrays = {"x": x, "i": _indices(d, (count,), extent, index)}
    tail = d.one_of(("", "", "", ".sum(0)", " * 2", ".sum(1)"))
    return Case(arrays, f"return {ours}{tail}",
                f"return torch.index_select(x, {axis}, {_wrapped('i', extent)}){tail}", wrt=("x",), dtype=dtype,
                roundings=2 if tail else 1)


def _wrapped(name: str, extent: int) -> str:
    return f"torch.remainder({name}.to(torch.int64), {extent})"


def outside(d: Draw) -> Case:
    """Indices that may lie outside, in a compiled function: they are clamped, whatever their type."""
    index, other = d.one_of(INDICES), d.one_of(INDICES)
    dtype = d.one_of(("float32", "float64", "int32", "uint8", "bfloat16"))
    rows, columns = shape_of(d, 2, _MOST)
    count = d.extent(200)
    x = whole((rows, columns), "int64", -100, 100) if dtype.startswith(("int", "uint")) else numbers(
        d, (rows, columns), "float32")
    x = f"{x}.astype({'ml_dtypes.bfloat16' if dtype == 'bfloat16' else repr(dtype)})"
    i, j = (_indices(d, (count,), n, t, outside=True) for n, t in ((rows, index), (columns, other)))
    ours, theirs = d.one_of((
        ("x[i]", f"x[position(i, {rows})]"),
        ("x[:, j]", f"x[:, position(j, {columns})]"),
        ("x[i, j]", f"x[position(i, {rows}), position(j, {columns})]"),
        ("dlc.take(x, i, axis=0)", f"x[position(i, {rows})]"),
        ("x[i][:, j]", f"x[position(i, {rows})][:, position(j, {columns})]"),
        ("dlc.take_along_axis(x, i[:, None], axis=0)[:, 0]", f"x[position(i, {rows}), 0]"),
    ))  # fmt: skip
    return Case({"x": x, "i": i, "j": j}, f"return {ours}", f"return {theirs}", kind="exact", numpy=True,
                modes=_COMPILED, before=_POSITION)


_STEPS = ("{e} + {c}", "{e} - {c}", "{e} * {c}", "dlc.clip({e}, {c}, {b})", "{e} // {p}", "{e} % {p}", "{e} & {p}",
          "{e}.astype(dlc.{t})", "-{e}", "dlc.maximum({e}, {c})", "dlc.minimum({e}, {b})", "dlc.abs({e})", "{e} + j",
          "{e} * j", "dlc.where({e} > {c}, {e}, j)", "{e} << {s}", "{e} >> {s}")


def expressions(d: Draw) -> Case:
    """Indices computed in some integer type, which wraps, on the way to a gather or a scatter, which clamp."""
    dtype = d.one_of(INTEGERS)
    n, count = d.extent(300), d.extent(300)
    expression, current = "i", dtype
    for _ in range(d.integer(1, 5)):
        step = d.one_of(_STEPS)
        bits = int(current.lstrip("uint"))
        top = (1 << (bits - (current[0] == "i"))) - 1
        c = d.one_of((0, 1, 2, 3, 7, min(n, top), min(2 * n, top), top, top // 2, 1 << (bits - 2)))
        b = min(top, max(c, d.one_of((n, 10, 100, 2 * n))))
        other = d.one_of(INTEGERS)
        if "j" in step and current != dtype:
            step = "{e} + {c}"
        if step.startswith("-") and current[0] == "u":
            step = "{e} - {c}"
        p = d.one_of((1, 2, 3, min(n, top), 64))
        expression = f"({step.format(e=expression, c=c, b=b, p=p, t=other, s=d.integer(0, 3))})"
        if "astype" in step:
            current = other
    big = d.chance(30)  # any value of the type
    arrays = {"x": whole((n,), "float32", -1000, 1000)}
    info = f"np.iinfo('{dtype}')"
    for name in "ij":
        arrays[name] = (f"r.integers({info}.min, {info}.max, {count}, dtype='{dtype}', endpoint=True)" if big else
                        _indices(d, (count,), n, dtype, outside=True))
    theirs = expression.replace("dlc.", "np.")
    ours, reference = d.one_of((
        (f"return x[{expression}]", f"return x[position({theirs}, {n})]"),
        (f"return dlc.take(x, {expression}, axis=0) * 2", f"return x[position({theirs}, {n})] * 2"),
        (f"return x.at[{expression}].add(1.0)",
         f"out = x.copy()\nnp.add.at(out, position({theirs}, {n}), 1)\nreturn out"),
        (f"return x.at[{expression}].max(5.0)",
         f"out = x.copy()\nnp.maximum.at(out, position({theirs}, {n}), 5)\nreturn out"),
        (f"return x[:, None].repeat_interleave(3, axis=1)[{expression}, 1]", f"return x[position({theirs}, {n})]"),
        (f"return {expression}", f"return {theirs}"),
    ))  # fmt: skip
    return Case(arrays, ours, reference, kind="exact", numpy=True, modes=_COMPILED, before=_POSITION)


def scatters(d: Draw) -> Case:
    """Sums, products and extremes at positions; sets at positions that differ."""
    dtype = float_type(d)
    index = d.one_of(INDICES)
    rows, columns = shape_of(d, 2, _MOST)
    count = d.extent(300)
    form = d.one_of(("add", "add", "index_add", "scatter_add", "set", "max", "columns"))
    x = numbers(d, (rows, columns), dtype)
    if form == "set":
        count = min(count, rows, _LIMIT.get(index, rows))
        arrays = {"x": x, "i": f"r.permutation({min(rows, _LIMIT.get(index, rows))})[:{count}].astype('{index}')",
                  "v": numbers(d, (count, columns), dtype)}
        return Case(arrays, "return x.at[i].set(v)", "return x.index_put((i.to(torch.int64),), v)", wrt=("x", "v"),
                    dtype=dtype)
    if form == "scatter_add":
        arrays = {"x": x, "i": _indices(d, (count, columns), rows, index), "v": numbers(d, (count, columns), dtype)}
        return Case(arrays, "return dlc.scatter_add(x, 0, i, v)",
                    f"return torch.scatter_add(x, 0, {_wrapped('i', rows)}, v)", wrt=("x", "v"), dtype=dtype,
                    roundings=9)
    axis = 1 if form == "columns" else 0
    extent = (rows, columns)[axis]
    v = (rows, count) if axis else (count, columns)
    arrays = {"x": x, "i": _indices(d, (count,), extent, index), "v": numbers(d, v, dtype)}
    if form == "max":
        return Case(arrays, "return x.at[i].max(v)",
                    f"return x.index_reduce(0, {_wrapped('i', rows)}, v, 'amax')", kind="exact", dtype=dtype)
    ours = {"add": "x.at[i].add(v)", "index_add": "dlc.index_add(x, 0, i, v)", "columns": "x.at[:, i].add(v)"}[form]
    return Case(arrays, f"return {ours}", f"return torch.index_add(x, {axis}, {_wrapped('i', extent)}, v)",
                wrt=("x", "v"), dtype=dtype, roundings=9)


def assignments(d: Draw) -> Case:
    """x[...] = v and x[...] += v through slices, numbers, masks and positions."""
    shape = shape_of(d, d.integer(1, 3), _MOST)
    dtype = float_type(d)
    ranges = []
    for extent in shape:
        start = d.integer(0, extent - 1)
        ranges.append((start, d.integer(start + 1, extent), d.one_of((1, 1, 2, 3))))
    index = ", ".join(f"{a}:{b}:{s}" for a, b, s in ranges)
    taken = tuple(len(range(*r)) for r in ranges)
    form = d.one_of(("set", "add", "number", "mask", "where", "fill", "multiply"))
    arrays = {"x": numbers(d, shape, dtype), "v": numbers(d, taken, dtype), "m": f"r.random({shape}) < 0.4"}
    start, end = "x = x + 0", "return x"
    body = {"set": f"x[{index}] = v", "add": f"x[{index}] += v", "number": f"x[{index}] = 3", "mask": "x[m] = 2",
            "multiply": f"x[{index}] *= v"}.get(form)
    if body:
        ours = theirs = f"{start}\n{body}\n{end}"
        if form in ("add", "multiply"):
            sign = "+" if form == "add" else "*"
            theirs = f"y = x.clone()\ny[{index}] = x[{index}] {sign} v\nreturn y"
    elif form == "where":
        ours, theirs = "return dlc.where(m, x, 1.0)", "return torch.where(m, x, torch.ones_like(x))"
    else:
        ours, theirs = "return dlc.masked_fill(x, m, 2.0)", "return x.masked_fill(m, 2.0)"
    wrt = ("x", "v") if " v" in ours else ("x",)
    return Case(arrays, ours, theirs, wrt=wrt, dtype=dtype)


FAMILIES = {f.__name__: f for f in (slices, gathers, outside, expressions, scatters, assignments)}
