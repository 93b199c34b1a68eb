"""Arguments and references for the accuracy of the expanded functions: what test_expand_math.py measures with."""

from __future__ import annotations

import math

import numpy as np

from dlc.ir.scalar import SCALAR_OPS

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 2.5, -2.5, float("inf"), float("-inf"), float("nan"))

# where a function does something: sampled densely, besides all exponents
DENSE = {
    "exp": (-110, 90), "expm1": (-20, 90), "log": (0.3, 3), "log2": (0.3, 3), "log1p": (-1, 3), "sin": (-40, 40),
    "cos": (-40, 40), "tan": (-40, 40), "asin": (-1, 1), "acos": (-1, 1), "atan": (-4, 4), "sinh": (-90, 90),
    "cosh": (-90, 90), "tanh": (-10, 10), "sigmoid": (-110, 90), "asinh": (-4, 4),
    "acosh": (1, 4), "atanh": (-1, 1), "erf": (-6.5, 6.5),
    "rsqrt": (0, 4),
}  # fmt: skip
DENSE_F64 = {
    "exp": (-750, 712), "expm1": (-40, 712), "sinh": (-712, 712), "cosh": (-712, 712), "tanh": (-20, 20),
    "sigmoid": (-750, 712),
}  # fmt: skip
# how far sin, cos and tan promise to be right
CIRCLE_LIMIT = {"f32": {True: 2.0**102, False: math.inf}, "f64": {True: math.inf, False: math.inf}}


def arguments(name: str, dtype, count: int, seed: int = 0) -> list[np.ndarray]:
    """Operands: every exponent with random mantissas and signs, the dense range, and special values."""
    rng = np.random.default_rng(seed)
    np_type, word = dtype.np.type, np.dtype(f"u{dtype.itemsize}")
    arity = SCALAR_OPS[name].arity

    def everywhere(n: int) -> np.ndarray:
        return rng.integers(0, 2 ** (8 * dtype.itemsize), n, dtype=np.uint64).astype(word).view(dtype.np)

    def near(low: float, high: float, n: int) -> np.ndarray:
        return rng.uniform(low, high, n).astype(np_type)

    if arity == 1:
        low, high = (DENSE_F64 if dtype.bits == 64 else {}).get(name, DENSE[name])
        tiny = near(-1, 1, count // 8) * np_type(2) ** rng.integers(-30, 1, count // 8).astype(np_type)
        parts = [everywhere(count), near(low, high, count), tiny.astype(np_type), np.array(SPECIAL, np_type)]
        ends = np.array([low, high, 0.25, 0.5, 0.75, 1, 4], np_type)
        parts += [np.nextafter(ends, np_type(side)) for side in (-np.inf, np.inf)] + [ends]
        x = np.concatenate(parts)
        return [np.concatenate([x, -x])]
    special = np.array(np.meshgrid(SPECIAL, SPECIAL), np_type).reshape(2, -1)
    n = count
    if name == "pow":
        limit = 88.0 if dtype.bits == 32 else 709.0
        base = np.exp(rng.uniform(-5, 5, n)).astype(np_type)
        close = (1 + rng.standard_normal(n) * 1e-3).astype(np_type)
        with np.errstate(divide="ignore"):
            power = (rng.uniform(-1.2, 1.2, n) * limit / np.log(base.astype(np.float64))).astype(np_type)
            power2 = (rng.uniform(-1, 1, n) * limit / np.log(close.astype(np.float64))).astype(np_type)
        whole = rng.integers(-20, 20, n // 4).astype(np_type)
        pairs = [(everywhere(n), everywhere(n)), (base, power), (close, power2), (near(-9, 9, n // 4), whole),
                 (np.abs(everywhere(n)), near(-4, 4, n))]
    else:
        size = np_type(2) ** rng.integers(-9, 9, n).astype(np_type)
        pairs = [(everywhere(n), everywhere(n)), (near(-2, 2, n), near(-2, 2, n)),
                 ((near(-2, 2, n) * size).astype(np_type), near(-2, 2, n))]
    return [np.concatenate([special[i], *(p[i] for p in pairs)]) for i in range(2)]


def reference(name: str, args: list[np.ndarray]) -> np.ndarray:
    """The exact values to at least 63 bits for float64 operands, 52 for float32 ones."""
    wide = np.longdouble if args[0].dtype == np.float64 else np.float64
    with np.errstate(all="ignore"):
        if name == "erf" and wide is np.longdouble:
            return _erf(args[0])
        return SCALAR_OPS[name].numpy(*(a.astype(wide) for a in args))


def _erf(x: np.ndarray) -> np.ndarray:
    from mpmath import mp

    def one(v: float) -> np.longdouble:
        with mp.workdps(30):
            exact = mp.erf(v) if math.isfinite(v) else mp.mpf(math.erf(v))
            high = float(exact)
            rest = float(exact - high) if math.isfinite(high) else 0.0
            return np.longdouble(high) + np.longdouble(rest) if rest else np.longdouble(high)

    return np.array([one(float(v)) for v in x], np.longdouble)


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units of the last place of `exact` as `got`'s type has it; infinite where NaN or infinity differ."""
    wide = exact.dtype.type
    with np.errstate(all="ignore"):
        near = exact.astype(got.dtype)
        finite = np.isfinite(near) & np.isfinite(got)
        tiny = np.finfo(got.dtype).tiny
        unit = np.spacing(np.maximum(np.abs(near), tiny)).astype(wide)
        distance = np.abs(got.astype(wide) - exact) / unit
        # overflow: the largest finite number is as near to 2^emax as one unit
        edge = np.abs(np.clip(got, np.finfo(got.dtype).min, np.finfo(got.dtype).max).astype(wide) - exact) / unit
        same = (np.isnan(near) & np.isnan(got)) | (near == got)
    out = np.where(finite, distance, np.where(same, 0, np.inf))
    boundary = ~np.isnan(got) & np.isfinite(exact) & (np.isinf(got) != np.isinf(near))
    return np.where(boundary, edge, out)
