"""Integer arithmetic of all types wraps as NumPy's, also where whole numbers would cancel or decide comparisons."""

import numpy as np
import pytest

import dlc
from tests.sweeps.indices import INTS

# of a, b, the least and the greatest value, and a library
PATTERNS = [
    "(a + b) - b", "a + b - a", "a - (a - b)", "(a + 100) - 100", "(a + 100) + 100", "(a - high) - high", "-(-a)",
    "-(a - b)", "(a * 3) // 3", "(a * 3) % 3", "(a * 4 + 2) // 2", "(a * 4 + 2) % 4", "(a * 4) // 2", "(a * 16) * 16",
    "(a * 16) // 16", "(a * b) // b", "a // 3 * 3 + a % 3", "a // b * b + a % b", "(a // 3) // 5", "(a // 16) // 16",
    "(a % 12) % 4", "(a + 1) // 2", "a // high", "a // 1", "a % 1", "0 * a", "1 * a", "a // 0", "a % 0", "0 // a",
    "0 % a", "a // low", "a % low", "F.abs(a)", "F.abs(-a)", "F.abs(F.abs(a))", "F.sign(a)", "F.sign(-a)", "~(~a)",
    "~a", "-(~a)", "(a ^ b) ^ b", "(a | b) & a", "a & 15", "(a & 15) + 1", "a | high", "a << 1", "(a << 3) >> 3",
    "(a << 3) // 8", "(a >> 1) << 1", "a >> 3", "F.maximum(a, low)", "F.minimum(a, low)", "F.maximum(a, high)",
    "F.minimum(a, high)", "F.maximum(F.minimum(a, 10), 3)", "F.minimum(F.maximum(a, 10), 3)", "F.maximum(a + 1, a)",
    "F.minimum(a * 2, a)", "F.clip(a, 3, 100) * 2 - 200 % 7", "F.clip(a, 0, 100) + 100", "F.clip(a, 0, 100) * 5 // 5",
    "(F.clip(a, 0, 100) * 5) % 5", "a + 1 > a", "a - 1 < a", "a < a + b", "a * 2 == a + a", "a * 2 < 10",
    "a + 10 < 20", "a - 10 <= high - 5", "-a < 0", "-a == a", "F.abs(a) >= 0", "a <= high", "a < low", "a >= low",
    "a != a + 0", "F.clip(a, 0, 100) + 100 >= 0", "F.clip(a, 0, 10) - 11 < 0", "(a < b) | (b <= a)", "~(a < b)",
    "F.where(a < b, a, b) - F.minimum(a, b)", "F.where(a < 0, a + 100, a)",
]  # fmt: skip
CASTS = [(first, second) for first in INTS for second in INTS]


def _values(dtype):
    info, rng = np.iinfo(dtype), np.random.default_rng(0)
    if info.bits == 8:
        a, b = np.meshgrid(*[np.arange(info.min, info.max + 1, dtype=dtype)] * 2)
        return a.ravel()[::5].copy(), b.ravel()[::5].copy()
    near = [int(info.min), int(info.max), 0, int(info.max) // 2, int(info.max) // 3, 1 << (info.bits // 2)]
    around = (-101, -100, -9, -2, -1, 0, 1, 2, 3, 9, 99)
    edge = {min(max(x + d, int(info.min)), int(info.max)) for x in near for d in around}
    all_ = np.concatenate([np.array(sorted(edge), dtype), rng.integers(info.min, info.max, 60, dtype, endpoint=True)])
    a, b = np.meshgrid(all_, all_)
    return a.ravel().copy(), b.ravel().copy()


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_patterns(dtype):
    info = np.iinfo(dtype)
    names = {"low": int(info.min), "high": int(info.max)}
    texts = [p for p in PATTERNS if info.min < 0 or "a // low" not in p]
    code = compile(f"[{', '.join(texts)}]", "patterns", "eval")
    a, b = _values(dtype)
    got = dlc.jit(lambda a, b: eval(code, names | {"a": a, "b": b, "F": dlc}))(dlc.asarray(a), dlc.asarray(b))
    want = eval(code, names | {"a": a, "b": b, "F": np})
    for text, g, w in zip(texts, got, want, strict=True):
        np.testing.assert_array_equal(g.numpy(), w, text)


@pytest.mark.parametrize("dtype", INTS)
def test_casts_of_casts(dtype):
    a, _ = _values(dtype)
    a = np.unique(a)
    got = dlc.jit(lambda a: [a.astype(getattr(dlc, x)).astype(getattr(dlc, y)) for x, y in CASTS])(dlc.asarray(a))
    for (x, y), g in zip(CASTS, got, strict=True):
        np.testing.assert_array_equal(g.numpy(), a.astype(x).astype(y), f"{x} {y}")
