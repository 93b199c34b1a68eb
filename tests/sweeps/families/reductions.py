"""Folds over axes, running totals, sorts, and what is made of them."""

from __future__ import annotations

from tests.sweeps.case import MODES, Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import INTEGERS, cast, distinct, float_type, normal, numbers, shape_of, size, whole

_MOST = 60_000  # elements
_SPAN = {"bfloat16": 256, "float16": 2048}  # so many whole numbers are exact


def _axes(d: Draw, ndim: int) -> tuple[int, ...] | None:
    """Some axes, or all."""
    some = tuple(a for a in range(ndim) if d.chance(50))
    return some if some and not d.chance(10) else None


def _shape(d: Draw) -> tuple[int, ...]:
    return shape_of(d, d.integer(1, 4), _MOST, 20_000)


def _count(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> int:
    return size(shape if axes is None else [shape[a] for a in axes])


def sums(d: Draw) -> Case:
    """Sums and means of floats, alone or of simple products."""
    shape = _shape(d)
    axes = _axes(d, len(shape))
    axis = tuple(range(len(shape))) if axes is None else axes
    dtype = float_type(d)
    op = d.one_of(("sum", "mean", "sum"))
    of = d.one_of(("x", "x", "x * y", "x.swapaxes(0, -1)", "x * x"))
    arrays = {"x": numbers(d, shape, dtype)}
    if "y" in of:
        arrays["y"] = numbers(d, shape[-1:] if d.chance(40) else shape, dtype)
    if "swap" in of:
        axis = (d.integer(0, len(shape) - 1),)
    keep = d.chance(30)
    return Case(arrays, f"return dlc.{op}({of}, axis={axis}, keepdims={keep})",
                f"return torch.{op}({of}, dim={axis}, keepdim={keep})", wrt=tuple(arrays), dtype=dtype,
                terms=size(shape), roundings=3)


def extremes(d: Draw) -> Case:
    """max, min, argmax, argmin: all elements differ."""
    shape = _shape(d)
    dtype = float_type(d)
    if size(shape) > _SPAN.get(dtype, 1 << 24):
        dtype = "float32"
    op = d.one_of(("amax", "amin", "argmax", "argmin"))
    keep = d.chance(30)
    if op.startswith("arg"):
        axis: object = None if d.chance(20) else d.integer(0, len(shape) - 1)
        keep = keep and axis is not None
        return Case({"x": distinct(shape, dtype)}, f"return dlc.{op}(x, axis={axis}, keepdims={keep})",
                    f"return torch.{op}(x, dim={axis}, keepdim={keep})", kind="exact")
    axes = _axes(d, len(shape)) or tuple(range(len(shape)))
    return Case({"x": distinct(shape, dtype)}, f"return dlc.{op[1:]}(x, axis={axes}, keepdims={keep})",
                f"return torch.{op}(x, dim={axes}, keepdim={keep})", kind="exact", wrt=("x",), dtype=dtype)


def whole_folds(d: Draw) -> Case:
    """All folds of integers, which wrap, and of truth values."""
    shape = _shape(d)
    axes = _axes(d, len(shape))
    dtype = d.one_of((*INTEGERS, "bool"))
    keep = d.chance(30)
    if dtype == "bool":
        op = d.one_of(("any", "all", "count_nonzero"))
        x = f"r.random({shape}) < {d.one_of((0.5, 0.001, 0.999))}"
        return Case({"x": x}, f"return dlc.{op}(x, axis={axes}, keepdims={keep})",
                    f"return np.{op}(x, axis={axes}, keepdims={keep})", kind="exact", numpy=True)
    op = d.one_of(("sum", "prod", "max", "min", "any", "all"))
    x = f"r.integers(np.iinfo('{dtype}').min, np.iinfo('{dtype}').max, {shape}, dtype='{dtype}', endpoint=True)"
    if d.chance(50) or op in ("any", "all"):
        x = whole(shape, dtype, 0 if dtype[0] == "u" else -2, 3)
    as_type = f", dtype=dlc.{dtype}" if op in ("sum", "prod") else ""
    return Case({"x": x}, f"return dlc.{op}(x, axis={axes}, keepdims={keep}{as_type})",
                f"return np.{op}(x, axis={axes}, keepdims={keep}{as_type.replace('dlc', 'np')})", kind="exact",
                numpy=True)


def moments(d: Draw) -> Case:
    """var, std, logsumexp, prod and norms."""
    shape = _shape(d)
    axes = _axes(d, len(shape)) or tuple(range(len(shape)))
    count = _count(shape, axes)
    dtype = d.one_of(("float32", "float64"))
    op = d.one_of(("var", "std", "logsumexp", "norm", "prod", "norm1"))
    keep = d.chance(30)
    shift = d.one_of((0, 0, 3))
    x = cast(f"(r.standard_normal({shape}) + {shift})", dtype)
    if op in ("var", "std"):
        correction = 0 if count < 2 else d.integer(0, 1)
        if op == "std" and count < 2:
            op = "var"
        ours = f"dlc.{op}(x, axis={axes}, correction={correction}, keepdims={keep})"
        theirs = f"torch.{op}(x, dim={axes}, correction={correction}, keepdim={keep})"
    elif op == "logsumexp":
        ours, theirs = f"dlc.logsumexp(x, axis={axes}, keepdims={keep})", f"torch.logsumexp(x, {axes}, {keep})"
    elif op == "prod":
        x = cast(f"(1 + 0.3 * r.standard_normal({shape}) / {max(1, count) ** 0.5:.1f})", dtype)
        axis = axes[0]
        ours, theirs = f"dlc.prod(x, axis={axis}, keepdims={keep})", f"torch.prod(x, {axis}, {keep})"
    else:
        order = 1 if op == "norm1" else 2
        ours = f"dlc.vector_norm(x, axis={axes}, ord={order}, keepdims={keep})"
        theirs = f"torch.linalg.vector_norm(x, {order}, {axes}, {keep})"
    return Case({"x": x}, f"return {ours}", f"return {theirs}", kind="smooth", wrt=("x",), dtype=dtype,
                terms=count)


def running(d: Draw) -> Case:
    """cumsum, cumprod, cummax and cummin along any axis."""
    shape = _shape(d)
    axis = d.integer(0, len(shape) - 1)
    op = d.one_of(("cumsum", "cumsum", "cummax", "cummin", "cumprod"))
    dtype = float_type(d)
    if op == "cumsum":
        reverse = d.chance(20)
        flip = f".flip({axis})" if reverse else ""
        return Case({"x": numbers(d, shape, dtype)}, f"return dlc.cumsum(x{flip}, {axis}){flip}",
                    f"return torch.cumsum(x{flip}, {axis}){flip}", wrt=("x",), dtype=dtype, roundings=2)
    if op == "cumprod":
        shape = tuple(min(extent, 300) for extent in shape)
        x = cast(f"(1 + 0.3 * r.standard_normal({shape}) / {shape[axis] ** 0.5:.1f})", "float64")
        return Case({"x": x}, f"return dlc.cumprod(x, {axis})", f"return torch.cumprod(x, {axis})", kind="smooth",
                    wrt=("x",), dtype="float64", terms=shape[axis])
    if size(shape) > _SPAN.get(dtype, 1 << 24):
        dtype = "float32"
    # gradients add whole numbers up
    return Case({"x": distinct(shape, dtype)}, f"return dlc.{op}(x, {axis})", f"return torch.{op}(x, {axis})[0]",
                kind="exact", wrt=("x",) if dtype in ("float32", "float64") else ())


def whole_running(d: Draw) -> Case:
    """Running totals of integers, which wrap."""
    shape = _shape(d)
    axis = d.integer(0, len(shape) - 1)
    dtype = d.one_of(INTEGERS)
    op = d.one_of(("cumsum", "cumprod"))
    x = f"r.integers(np.iinfo('{dtype}').min, np.iinfo('{dtype}').max, {shape}, dtype='{dtype}', endpoint=True)"
    return Case({"x": x}, f"return dlc.{op}(x, {axis}, dtype=dlc.{dtype})",
                f"return np.{op}(x, {axis}, dtype='{dtype}')", kind="exact", numpy=True)


def sorts(d: Draw) -> Case:
    """sort, argsort and topk of distinct and of repeated values, of all types, up and down."""
    shape = shape_of(d, d.integer(1, 3), 20_000, 5000)
    axis = d.integer(-1, len(shape) - 1)
    down = d.chance(40)
    form = d.one_of(("sort", "argsort", "topk", "sort ties", "argsort ties"))
    dtype = d.one_of(("float32", "float64", "float32", *INTEGERS, "bfloat16"))
    if "ties" in form:
        low = 0 if dtype[0] == "u" else -3
        x = cast(f"r.integers({low}, 4, {shape})", dtype)
        op = form.split()[0]
        sign = "-x.astype('f8')" if down else "x"
        ours = f"return dlc.{op}(x, axis={axis}, descending={down})"
        theirs = (f"return np.argsort({sign}, axis={axis}, kind='stable')" if op == "argsort" else
                  f"y = np.sort(x, axis={axis})\nreturn np.flip(y, {axis}) if {down} else y")
        return Case({"x": x}, ours, theirs, kind="exact", numpy=True)
    span = {"int8": 256, "uint8": 256, "int16": 65536, "uint16": 65536, "bfloat16": 256}.get(dtype, 1 << 30)
    dtype = dtype if size(shape) <= span and dtype not in ("uint16", "uint32", "uint64") else "float32"
    x = cast(f"r.permutation({size(shape)}).reshape({shape})", dtype) if dtype[0] == "u" else distinct(shape, dtype)
    wrt = ("x",) if dtype.startswith("float") and form != "argsort" else ()
    if form == "topk":
        k = d.integer(1, shape[axis])
        if d.chance(40):
            k = min(k, 5)
        return Case({"x": x}, f"return dlc.topk(x, {k}, axis={axis}, largest={down})",
                    f"return tuple(torch.topk(x, {k}, {axis}, {down}))", kind="exact", wrt=wrt)
    theirs = {"sort": f"torch.sort(x, dim={axis}, descending={down})[0]",
              "argsort": f"torch.argsort(x, dim={axis}, descending={down})"}[form]
    return Case({"x": x}, f"return dlc.{form}(x, axis={axis}, descending={down})", f"return {theirs}", kind="exact",
                wrt=wrt)


def searches(d: Draw) -> Case:
    """searchsorted, bincount, unique, nonzero, median, quantile."""
    n, m = d.extent(2000), d.extent(500)
    form = d.one_of(("left", "right", "bincount", "unique", "nonzero", "median", "isclose"))
    shape = shape_of(d, d.integer(1, 3), 3000)
    if form in ("left", "right"):
        dtype = d.one_of(("float32", "int32", "int64", "float64", "uint8", "int8"))
        low = 0 if dtype[0] == "u" else -100
        arrays = {"x": f"np.sort(r.integers({low}, 100, {n})).astype('{dtype}')", "v": whole((m,), dtype, low, 100)}
        return Case(arrays, f"return dlc.searchsorted(x, v, side='{form}')",
                    f"return np.searchsorted(x, v, side='{form}')", kind="exact", numpy=True)
    if form == "bincount":
        length = d.extent(100)
        return Case({"x": whole((n,), d.one_of(INTEGERS), 0, length)}, f"return dlc.bincount(x, {length})",
                    f"return np.bincount(x.astype(np.int64), minlength={length})", kind="exact", numpy=True)
    x = {"x": whole(shape, d.one_of(("float32", "int32", "int8", "uint8")), 0, 20)}
    if form == "unique":
        return Case(x, "return dlc.unique(x)", "return np.unique(x)", kind="exact", numpy=True, modes=("eager",))
    if form == "nonzero":
        return Case(x, "return dlc.nonzero(x)", "return np.nonzero(x)", kind="exact", numpy=True, modes=("eager",))
    if form == "median":
        axis = d.integer(0, len(shape) - 1)
        return Case({"x": normal(shape, "float32")}, f"return dlc.median(x, axis={axis})",
                    f"return torch.quantile(x, 0.5, dim={axis})", kind="smooth")
    return Case(x, "return dlc.isclose(x, 3)", "return np.isclose(x, 3)", kind="exact", numpy=True, modes=MODES[:1])


FAMILIES = {f.__name__: f for f in (sums, extremes, whole_folds, moments, running, whole_running, sorts, searches)}
