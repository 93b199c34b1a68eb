"""Convolutions, transposed ones, and pools: windows of all kinds."""

from __future__ import annotations

from tests.sweeps.case import Case
from tests.sweeps.draw import Draw
from tests.sweeps.families.values import autocast, distinct, float_type, numbers, size

_MOST = 1 << 22  # products of a case


class _Windows:
    """Images, kernels and how the one goes over the other; `n` axes."""

    def __init__(self, d: Draw, n: int):
        self.n = n
        self.taps = tuple(d.one_of((1, 2, 3, 3, 4, 5, 7)) for _ in range(n))
        self.strides = self._each(d, (1, 1, 2, 3))
        self.dilations = self._each(d, (1, 1, 1, 2, 3))
        high = 40 if n == 2 else 300
        self.image = tuple(d.extent(high) for _ in range(n))

    def _each(self, d: Draw, values: tuple[int, ...]) -> tuple[int, ...]:
        first = d.one_of(values)
        return tuple(d.one_of(values) if d.chance(30) else first for _ in range(self.n))

    def channels(self, d: Draw, products: int) -> tuple[int, int, int, int]:
        """Examples, channels in, channels out and groups, for at most so many products of windows."""
        left = max(1, products // max(1, size(self.image) * size(self.taps)))
        kind = d.one_of(("dense", "dense", "dense", "groups", "depthwise"))
        if kind == "dense":
            into = d.extent(min(512, left))
            out = d.extent(max(1, min(512, left // into)))
            return d.integer(1, max(1, min(8, left // (into * out)))), into, out, 1
        groups = d.extent(min(64, left))
        into, out = (1, d.one_of((1, 1, 2))) if kind == "depthwise" else (d.integer(1, 8), d.integer(1, 8))
        return d.integer(1, 4), groups * into, groups * out, groups


def _convolution(d: Draw, n: int) -> Case:
    w = _Windows(d, n)
    same = d.chance(15)
    strides = (1,) * n if same else w.strides
    padding: object = "same" if same else "valid" if d.chance(5) else tuple(d.integer(0, 3) for _ in range(n))
    reach = [dil * (k - 1) + 1 for k, dil in zip(w.taps, w.dilations, strict=True)]
    grown = [0] * n if isinstance(padding, str) else padding
    image = tuple(max(e, 1 if same else r - 2 * p) for e, r, p in zip(w.image, reach, grown, strict=True))
    batch, into, out, groups = w.channels(d, _MOST)
    dtype = float_type(d)
    lead = () if d.chance(5) else (batch,)
    arrays = {"x": numbers(d, (*lead, into, *image), dtype), "w": numbers(d, (out, into // groups, *w.taps), dtype)}
    if d.chance(50):
        arrays["b"] = numbers(d, (out,), dtype)
    call = (f"conv{n}d({', '.join(arrays)}, stride={strides}, padding={padding!r}, dilation={w.dilations}, "
            f"groups={groups})")
    body, computed = autocast(d, dtype, f"return F.{call}")
    return Case(arrays, body, f"return T.{call}", wrt=tuple(arrays), dtype=computed,
                roundings=2 if computed == dtype else 4)


def conv1d(d: Draw) -> Case:
    """Over one axis."""
    return _convolution(d, 1)


def conv2d(d: Draw) -> Case:
    """Over two axes."""
    return _convolution(d, 2)


def _transposed(d: Draw, n: int) -> Case:
    w = _Windows(d, n)
    batch, into, out, groups = w.channels(d, _MOST // 4)
    extra = tuple(d.integer(0, max(s, dil) - 1) for s, dil in zip(w.strides, w.dilations, strict=True))
    spans = [(e - 1) * s + dil * (k - 1) + x for e, s, dil, k, x in
             zip(w.image, w.strides, w.dilations, w.taps, extra, strict=True)]
    padding = tuple(d.integer(0, min(dil * (k - 1), span // 2)) for dil, k, span in
                    zip(w.dilations, w.taps, spans, strict=True))
    dtype = float_type(d)
    arrays = {"x": numbers(d, (batch, into, *w.image), dtype), "w": numbers(d, (into, out // groups, *w.taps), dtype)}
    if d.chance(50):
        arrays["b"] = numbers(d, (out,), dtype)
    call = (f"conv_transpose{n}d({', '.join(arrays)}, stride={w.strides}, padding={padding}, output_padding={extra}, "
            f"groups={groups}, dilation={w.dilations})")
    body, computed = autocast(d, dtype, f"return F.{call}")
    return Case(arrays, body, f"return T.{call}", wrt=tuple(arrays), dtype=computed,
                roundings=2 if computed == dtype else 4)


def conv_transpose1d(d: Draw) -> Case:
    """The adjoint over one axis."""
    return _transposed(d, 1)


def conv_transpose2d(d: Draw) -> Case:
    """The adjoint over two axes."""
    return _transposed(d, 2)


def convolved_twice(d: Draw) -> Case:
    """A block as networks have it: convolution, a non-linear function, convolution, sum with the input."""
    c, h, w, k = d.extent(64), d.extent(16), d.extent(16), d.one_of((1, 3))
    dtype = d.one_of(("float32", "float64"))
    arrays = {"x": numbers(d, (d.integer(1, 4), c, h, w), dtype), "a": numbers(d, (c, c, k, k), dtype),
              "b": numbers(d, (c, c, 3, 3), dtype)}
    ours, theirs = (f"return x + {lib}.conv2d({name}.tanh({lib}.conv2d(x, a, padding={k // 2})), b, padding=1)"
                    for lib, name in (("F", "dlc"), ("T", "torch")))
    return Case(arrays, ours, theirs, kind="smooth", wrt=("x", "a", "b"), dtype=dtype)


def _pool_arguments(d: Draw, w: _Windows, dilated: bool) -> tuple[str, tuple[int, ...]]:
    dilations = w.dilations if dilated else (1,) * w.n
    padding = tuple(d.integer(0, k // 2) for k in w.taps)
    image = tuple(max(e, dil * (k - 1) + 1) for e, k, dil in zip(w.image, w.taps, dilations, strict=True))
    text = f"{w.taps}, stride={'None' if d.chance(30) else w.strides}, padding={padding}, ceil_mode={d.chance(30)}"
    return text + (f", dilation={dilations}" if dilated else ""), image


def max_pool(d: Draw) -> Case:
    """The largest of a window; all elements differ, so that each window has one."""
    n = d.integer(1, 2)
    arguments, image = _pool_arguments(d, _Windows(d, n), dilated=True)
    shape = (d.integer(1, 3), d.extent(max(1, min(20, 20000 // size(image)))), *image)
    dtype = float_type(d)
    fits = size(shape) <= {"bfloat16": 256, "float16": 2048}.get(dtype, 1 << 24)
    call = f"max_pool{n}d(x, {arguments})"
    return Case({"x": distinct(shape, dtype if fits else "float32")}, f"return F.{call}", f"return T.{call}",
                kind="exact", wrt=("x",) if fits and dtype != "bfloat16" else ())


def avg_pool(d: Draw) -> Case:
    """The average of a window, with or without the padding."""
    n = d.integer(1, 2)
    w = _Windows(d, n)
    arguments, image = _pool_arguments(d, w, dilated=False)
    shape = (d.integer(1, 3), d.extent(max(1, min(20, 20000 // size(image)))), *image)
    dtype = float_type(d)
    call = f"avg_pool{n}d(x, {arguments}, count_include_pad={d.chance(50)})"
    return Case({"x": numbers(d, shape, dtype)}, f"return F.{call}", f"return T.{call}", wrt=("x",), dtype=dtype,
                terms=size(w.taps), roundings=2)


def adaptive_pool(d: Draw) -> Case:
    """Averages of nearly equal parts."""
    n = d.integer(1, 2)
    image = tuple(d.extent(60) for _ in range(n))
    parts = tuple(d.integer(1, e) for e in image)
    shape = (d.integer(1, 3), d.extent(max(1, min(20, 20000 // size(image)))), *image)
    dtype = float_type(d)
    call = f"adaptive_avg_pool{n}d(x, {parts})"
    return Case({"x": numbers(d, shape, dtype)}, f"return F.{call}", f"return T.{call}", wrt=("x",), dtype=dtype,
                terms=size(image), roundings=3)


FAMILIES = {f.__name__: f for f in (conv1d, conv2d, conv_transpose1d, conv_transpose2d, convolved_twice, max_pool,
                                    avg_pool, adaptive_pool)}
