"""Every function of numbers at the edge - zeros, denormals, ones, saturation, the largest numbers, infinities, NaN -
with its first and second derivative, one row a function, against PyTorch in the same type or in float64.

Where PyTorch has no number (NaN at an argument that is one) nothing is asserted; a NaN of ours where it has one is a
fault. What is deliberately otherwise stands in `OTHERWISE`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F

torch = pytest.importorskip("torch")
TF = torch.nn.functional

F32, F64 = np.float32, np.float64
# relative and absolute errors of the value and the two derivatives
ERRORS = {F32: ((1e-5, 1e-37), (1e-4, 1e-12), (4e-4, 2e-7)), F64: ((1e-12, 1e-300), (1e-9, 1e-15), (1e-7, 1e-15))}
# functions that are differences of ones and what they are made of: their errors in units of the last place of 1
FROM_ONE = {"tanh": 4, "F.tanh": 4, "F.tanhshrink": 4, "F.gelu": 4, "F.gelu tanh": 64, "F.mish": 16, "F.silu": 64,
            "erf": 4, "quick gelu": 64}  # fmt: skip


def _points(dtype: type) -> np.ndarray:
    info = np.finfo(dtype)
    low, high = float(info.smallest_subnormal), float(info.max)
    sizes = [0, 3 * low, float(info.tiny), 1e-30, 1e-10, 1e-4, 0.5, 1, 2, 3, 6, 8.5, 17, 20, 30, 60, 90, 100, 120, 710,
             1e4, 1e10, 1e15, 1.5e19, 3e19, 1e25, high / 4, high, math.inf]
    if dtype is F64:
        sizes += [746, 1e100, 1e155, 1e200, 2.0**52 + 1, 1e22]
    x = np.array(sizes, dtype)
    return np.concatenate([x, -x, np.array([math.nan], dtype)])


# -- functions of one number ----------------------------------------------------------------------------------------

_SAME = """exp expm1 log log1p log2 log10 sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
    floor ceil trunc round abs square reciprocal exp2 sigmoid negative nan_to_num""".split()
_ACTIVATIONS = """relu relu6 leaky_relu elu celu selu gelu logsigmoid silu mish softplus softsign tanhshrink hardtanh
    hardswish sigmoid tanh""".split()
UNARY = {
    **{n: (getattr(dlc, n), getattr(torch, n)) for n in _SAME},
    **{f"F.{n}": (getattr(F, n), getattr(TF, n)) for n in _ACTIVATIONS},
    "F.hardsigmoid": (F.hardsigmoid, lambda x: TF.hardtanh(x + 3.0, 0.0, 6.0) / 6.0),  # PyTorch's 1/6 is a float32
    "F.gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: TF.gelu(x, approximate="tanh")),
    "F.softplus 2": (lambda x: F.softplus(x, 2.0, 5.0), lambda x: TF.softplus(x, 2.0, 5.0)),
    "F.elu 0.7": (lambda x: F.elu(x, 0.7), lambda x: TF.elu(x, 0.7)),
    "F.threshold": (lambda x: F.threshold(x, 1.0, 5.0), lambda x: TF.threshold(x, 1.0, 5.0)),
    "F.prelu": (
        lambda x: F.prelu(x, dlc.astype(dlc.tensor([0.25]), x.dtype)),
        lambda x: TF.prelu(x, torch.tensor([0.25], dtype=x.dtype)),
    ),
    "quick gelu": (lambda x: x * dlc.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x)),
    "clip": (lambda x: dlc.clip(x, -1.0, 2.0), lambda x: torch.clip(x, -1.0, 2.0)),
    "clip below": (lambda x: dlc.clip(x, 0.5), lambda x: torch.clip(x, 0.5)),
    **{f"x ** {p}": (lambda x, p=p: x**p, lambda x, p=p: x**p)
       for p in (0, 1, 2, 3, 4, 7, 8, 10, -1, -2, -3, -8, 0.5, -0.5, 1.5, 2.5, -1.5)},
    **{f"{p} ** x": (lambda x, p=p: p**x, lambda x, p=p: p**x) for p in (2.0, 0.5, 1.0, 10.0)},
    "pow(x, x)": (lambda x: dlc.pow(x, x), lambda x: torch.pow(x, x)),
}  # fmt: skip

# (function, derivative): arguments at which dlc is deliberately otherwise than PyTorch
OTHERWISE = {
    **{(f"F.{n}", 2): (0.0,) for n in ("elu", "celu", "selu", "elu 0.7")},  # one of two: the slope from below
    ("x ** 0.5", 0): (-math.inf,),  # as IEEE 754's pow
    ("x ** -0.5", 0): (-math.inf,),
    ("x ** 1.5", 1): (-math.inf,),
    ("x ** 2.5", 2): (-math.inf,),
    **{(f"F.softplus{n}", k): (t,) for n, t in (("", 20.0), (" 2", 2.5)) for k in (1, 2)},  # at the threshold itself
}


def _all(f, x) -> list:
    """The value and the first two derivatives of an elementwise function of ours, and the first forwards."""
    def total(v):
        return f(v).sum()

    slope = dlc.grad(total)
    given = dlc.asarray(x)
    forward = dlc.jvp(f, (given,), (dlc.ones_like(given),))[1]
    second = dlc.grad(lambda v: slope(v).sum())(given)
    return [t.numpy() for t in (f(given), slope(given), second, forward)]


def _torch_slope(y, x):
    if not y.requires_grad:
        return torch.zeros_like(x)
    try:
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
    except RuntimeError:  # PyTorch has no such derivative
        return torch.full_like(x, math.nan)
    return torch.zeros_like(x) if slope is None else slope


def _all_of_torch(f, x) -> list:
    given = torch.tensor(x, requires_grad=True)
    y = f(given)
    slope = _torch_slope(y, given)
    return [t.detach().numpy(force=True) for t in (y, slope, _torch_slope(slope, given))]


def _near(got: np.ndarray, want: np.ndarray, error: tuple[float, float]) -> np.ndarray:
    with np.errstate(all="ignore"):
        got, want = got.astype(F64), want.astype(got.dtype).astype(F64)
        return (got == want) | np.isnan(want) | (np.abs(got - want) <= error[0] * np.abs(want) + error[1])


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setenv("DLC_INTERPRET", "1")


def _check_unary(name: str, dtype: type, ours: list) -> None:
    x, (_, theirs) = _points(dtype), UNARY[name]
    same, wide = _all_of_torch(theirs, x), _all_of_torch(theirs, x.astype(F64))
    assert np.isnan(ours[0][np.isnan(x)]).all() or name in ("x ** 0", "1.0 ** x", "nan_to_num")
    for order in range(3):
        relative, absolute = ERRORS[dtype][order]
        error = relative, max(absolute, FROM_ONE.get(name, 0) * float(np.finfo(dtype).eps))
        ok = _near(ours[order], same[order], error) | _near(ours[order], wide[order], error)
        ok |= np.isnan(ours[0] if order else x) | np.isin(x, OTHERWISE.get((name, order), ()))
        bad = np.flatnonzero(~ok)
        assert not bad.size, [(x[k], ours[order][k], same[order][k], wide[order][k]) for k in bad]
    assert (_near(ours[3], ours[1], ERRORS[dtype][1]) | ~np.isfinite(x)).all()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(name, dtype, interpreted):
    with np.errstate(all="ignore"):
        _check_unary(name, dtype, _all(UNARY[name][0], _points(dtype)))


@pytest.mark.parametrize("dtype", [F32, F64])
def test_what_saturates_is_the_same_compiled(dtype):
    """In one program: what kernels make of them, fused and simplified."""
    names = ["sigmoid", "tanh", "quick gelu", "F.gelu tanh", "F.silu", "F.softplus", "F.logsigmoid", "F.mish", "clip",
             "x ** -2"]  # fmt: skip

    def each(x):
        out = []
        for name in names:
            slope = dlc.grad(lambda v, f=UNARY[name][0]: f(v).sum())
            out.append((UNARY[name][0](x), slope(x), dlc.grad(lambda v, g=slope: g(v).sum())(x), slope(x)))
        return out

    for name, parts in zip(names, dlc.jit(each)(dlc.asarray(_points(dtype))), strict=True):
        _check_unary(name, dtype, [p.numpy() for p in parts])


@pytest.mark.parametrize("dtype", [dlc.float16, dlc.bfloat16])
def test_saturated_gates_in_half_types(dtype):
    x = dlc.astype(dlc.tensor([-1e4, -120.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4]), dtype)
    for f in (dlc.sigmoid, F.silu, F.gelu, F.mish, F.softplus, dlc.tanh, lambda v: v * dlc.sigmoid(1.702 * v)):
        slope = dlc.grad(lambda v, f=f: dlc.astype(f(v), dlc.float32).sum())(x)
        assert np.isfinite(dlc.astype(slope, dlc.float32).numpy()).all()


# -- functions of two numbers ---------------------------------------------------------------------------------------

VALUES = [0.0, -0.0, 1e-30, 1e-10, 0.5, 1.0, -1.0, 2.0, -2.0, 3.5, -20.0, 30.0, 100.0, -1e4, 1e15, 3e19, -1e25, 3e38,
          -3e38, math.inf, -math.inf, math.nan]  # fmt: skip
_PAIRS = """add subtract multiply divide remainder maximum minimum pow atan2 hypot logaddexp copysign
    floor_divide""".split()
_LOSSES = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits kl_div".split()
BINARY = {
    **{n: (getattr(dlc, n), getattr(torch, n)) for n in _PAIRS},
    "clip below": (dlc.clip, torch.clamp),
    "clip above": (lambda a, b: dlc.clip(a, None, b), lambda a, b: torch.clamp(a, max=b)),
    **{f"F.{n}": (lambda a, b, n=n: getattr(F, n)(a, b, reduction="none"),
                  lambda a, b, n=n: getattr(TF, n)(a, b, reduction="none")) for n in _LOSSES},
    "F.smooth_l1_loss 0.25": (lambda a, b: F.smooth_l1_loss(a, b, reduction="none", beta=0.25),
                              lambda a, b: TF.smooth_l1_loss(a, b, reduction="none", beta=0.25)),
    "F.huber_loss 2": (lambda a, b: F.huber_loss(a, b, reduction="none", delta=2.0),
                       lambda a, b: TF.huber_loss(a, b, reduction="none", delta=2.0)),
}  # fmt: skip
# what is not compared: (derivative, operands) -> where
ASIDE = {
    # ties, where PyTorch's second derivative is NaN: see below
    "logaddexp": lambda k, a, b: np.full(a.shape, k > 2),
    # 0 log(0) is constant in dlc, in PyTorch its slope is -inf
    "F.kl_div": lambda k, a, b: (k in (2, 5)) & (b <= 0),
    # PyTorch subtracts two large numbers
    "F.binary_cross_entropy_with_logits": lambda k, a, b: (b > 0) & (b < 1e-9),
}


def _both(f, a, b) -> list:
    def total(p, q):
        return f(p, q).sum()

    a, b = dlc.asarray(a), dlc.asarray(b)
    first, second = (dlc.grad(total, argnums=k) for k in (0, 1))
    own = [dlc.grad(lambda p, q, g=g: g(p, q).sum(), argnums=k)(a, b) for k, g in enumerate((first, second))]
    mixed = dlc.grad(lambda p, q: first(p, q).sum(), argnums=1)(a, b)
    return [t.numpy() for t in (f(a, b), first(a, b), second(a, b), own[0], mixed, own[1])]


def _both_of_torch(f, a, b) -> list:
    a, b = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    y = f(a, b)
    first, second = _torch_slope(y, a), _torch_slope(y, b)
    parts = (y, first, second, _torch_slope(first, a), _torch_slope(first, b), _torch_slope(second, b))
    return [t.detach().numpy(force=True) for t in parts]


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_numbers(name, interpreted):
    ours, theirs = BINARY[name]
    a, b = (v.ravel().astype(F32) for v in np.meshgrid(VALUES, VALUES))
    with np.errstate(all="ignore"):
        got = _both(ours, a, b)
    same, wide = _both_of_torch(theirs, a, b), _both_of_torch(theirs, a.astype(F64), b.astype(F64))
    ends = ~np.isfinite(a) | ~np.isfinite(b) | (np.maximum(np.abs(a), np.abs(b)) > 2e38) | (np.abs(b) == F32(1e-30))
    for k, order in enumerate((0, 1, 1, 2, 2, 2)):
        ok = _near(got[k], same[k], ERRORS[F32][order]) | _near(got[k], wide[k], ERRORS[F32][order])
        ok |= (np.isnan(got[0]) if k else np.isnan(a) | np.isnan(b)) | (ends & (order == 2))
        if name in ASIDE:
            ok |= ASIDE[name](k, a, b)
        bad = np.flatnonzero(~ok)
        assert not bad.size, (k, [(a[i], b[i], got[k][i], same[k][i], wide[k][i]) for i in bad])


def test_equal_operands_have_the_derivatives_of_a_smooth_function(interpreted):
    x = dlc.tensor([1.0, -2.0, 100.0])
    for f, first, second in (
        (dlc.logaddexp, [0.5] * 3, [0.25] * 3),
        (dlc.hypot, [0.5**0.5, -(0.5**0.5), 0.5**0.5], 0.5**1.5 / np.array([1.0, 2.0, 100.0])),
    ):
        slope = dlc.grad(lambda a, f=f: f(a, x).sum())
        np.testing.assert_allclose(slope(x).numpy(), first, 1e-6)
        np.testing.assert_allclose(dlc.grad(lambda a, g=slope: g(a).sum())(x).numpy(), second, 1e-5)


def test_fmod_has_a_derivative_at_zero(interpreted):
    a, b = dlc.tensor([0.0, -0.0, 5.5, -5.5]), dlc.tensor([3.0, 3.0, -3.0, 3.0])
    first, second = dlc.grad(lambda a, b: dlc.fmod(a, b).sum(), argnums=(0, 1))(a, b)
    np.testing.assert_array_equal(first.numpy(), [1, 1, 1, 1])
    np.testing.assert_array_equal(second.numpy(), [0, 0, 1, 1])


def test_atan2_far_out_and_close_by(interpreted):
    """PyTorch's squares overflow and vanish: 1/x and -y/x^2 as they are."""
    y, x = dlc.tensor([1e30, 1e-30, 0.0, 2e-30, 0.0]), dlc.tensor([1e30, 1e-30, 1e25, 0.0, 0.0])
    dy, dx = dlc.grad(lambda y, x: dlc.atan2(y, x).sum(), argnums=(0, 1))(y, x)
    np.testing.assert_allclose(dy.numpy(), [5e-31, 5e29, 1e-25, 0, 0], 1e-6)
    np.testing.assert_allclose(dx.numpy(), [-5e-31, -5e29, 0, -5e29, 0], 1e-6)


# -- probabilities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_binary_cross_entropy_where_the_probability_is_an_end(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setenv("DLC_INTERPRET", "1")
    ps, ts = [0.0, 1e-45, 1e-30, 1e-13, 1e-6, 0.25, 0.5, 1 - 2**-24, 1.0], [0.0, 0.25, 1.0]
    p, t = (v.ravel().astype(F32) for v in np.meshgrid(ps, ts))

    def loss(p, t):
        return F.binary_cross_entropy(p, t, reduction="none")

    q, s = torch.tensor(p, requires_grad=True), torch.tensor(t)
    want = TF.binary_cross_entropy(q, s, reduction="none")
    (slope,) = torch.autograd.grad(want.sum(), q)
    np.testing.assert_allclose(loss(dlc.asarray(p), dlc.asarray(t)).numpy(), want.detach().numpy(), 1e-5, 1e-7)
    dp, dt = dlc.grad(lambda p, t: loss(p, t).sum(), argnums=(0, 1))(dlc.asarray(p), dlc.asarray(t))
    np.testing.assert_allclose(dp.numpy(), slope.numpy(), 1e-5, 1e-7)
    assert np.isfinite(dt.numpy()).all()
    saturated = dlc.grad(lambda z: F.binary_cross_entropy(F.sigmoid(z), dlc.tensor([1.0, 1.0, 0.0, 0.0])))
    assert np.isfinite(saturated(dlc.tensor([200.0, -200.0, 200.0, -200.0])).numpy()).all()


def test_cross_entropy_of_large_logits():
    """The logarithm of the sum is not added to the largest logit, next to which it has no digits."""
    x = np.array([[1e10, 1e10, 1.0], [3e38, 3e38, 1.0], [1e5, 1e5 + 0.0625, 0.0], [-1e30, -1e30, -1e30]], F32)
    target = np.array([0, 1, 1, 2])
    for smoothing in (0.0, 0.1):
        got = F.cross_entropy(dlc.asarray(x), dlc.asarray(target), reduction="none", label_smoothing=smoothing)
        logits, classes = torch.tensor(x).double(), torch.tensor(target)
        want = TF.cross_entropy(logits, classes, reduction="none", label_smoothing=smoothing)
        np.testing.assert_allclose(got.numpy(), want.numpy(), 2e-6)


# -- reductions -----------------------------------------------------------------------------------------------------

ROWS = [[0, 0, 0], [-0.0, 0, -0.0], [1, 1, 1], [0.1, 0.1, 0.1], [1, 2, 3], [0, 1, 2], [0, 0, 2], [-1, 0, 1], [2, 2, 1],
        [-5, 3, -5], [100, 200, 300], [1e4, -1e4, 0], [1e10, 1e10, 1], [1e-10, 0, 0]]  # fmt: skip
ENDS = [[math.inf, 1, 2], [-math.inf, 1, 2], [math.inf, -math.inf, 1], [math.inf] * 3, [-math.inf] * 3,
        [math.nan, 1, 2]]  # fmt: skip
_WEIGHTS = [1.0, -2.0, 0.5]


def _weighted(f):
    return lambda x: f(x) * dlc.astype(dlc.tensor(_WEIGHTS), x.dtype)


def _weighted_torch(f):
    return lambda x: f(x) * torch.tensor(_WEIGHTS, dtype=x.dtype)


_RUNNING = ("cumsum", "cumprod", "cummax", "cummin")


def _values_of(y):
    return y if isinstance(y, torch.Tensor) else y[0]


REDUCTIONS = {
    **{n: (lambda x, n=n: getattr(dlc, n)(x, axis=-1), lambda x, n=n: _values_of(getattr(torch, n)(x, -1)))
       for n in ("sum", "mean", "prod", "logsumexp", "amax", "amin", "max", "min")},
    **{f"{n} {c}": (lambda x, n=n, c=c: getattr(dlc, n)(x, axis=-1, correction=c),
                    lambda x, n=n, c=c: getattr(torch, n)(x, -1, correction=c))
       for n in ("var", "std") for c in (0, 1)},
    **{f"norm {p}": (lambda x, p=p: dlc.vector_norm(x, axis=-1, ord=p),
                     lambda x, p=p: torch.linalg.vector_norm(x, p, dim=-1))
       for p in (0, 1, 2, 3, 4, 0.5, 1.5, -1, -2, math.inf, -math.inf)},
    **{f"normalize {p}": (_weighted(lambda x, p=p: F.normalize(x, p=p, dim=-1)),
                          _weighted_torch(lambda x, p=p: TF.normalize(x, p=p, dim=-1)))
       for p in (0.0, 1.0, 2.0, 3.0, 0.5, 1.5, math.inf)},
    **{n: (_weighted(lambda x, n=n: getattr(F, n)(x, -1)), _weighted_torch(lambda x, n=n: getattr(TF, n)(x, -1)))
       for n in ("softmax", "log_softmax", "softmin")},
    **{n: (_weighted(lambda x, n=n: getattr(dlc, n)(x, axis=-1)),
           _weighted_torch(lambda x, n=n: _values_of(getattr(torch, n)(x, -1)))) for n in _RUNNING},
    **{f"sort {down}": (_weighted(lambda x, down=down: dlc.sort(x, descending=down)),
                        _weighted_torch(lambda x, down=down: torch.sort(x, descending=down, stable=True)[0]))
       for down in (False, True)},
    "topk": (lambda x: dlc.topk(x, 2)[0], lambda x: torch.topk(x, 2)[0]),
    "layer_norm": (_weighted(lambda x: F.layer_norm(x, (3,))), _weighted_torch(lambda x: TF.layer_norm(x, (3,)))),
    "rms_norm": (_weighted(lambda x: F.rms_norm(x, (3,))), _weighted_torch(lambda x: TF.rms_norm(x, (3,)))),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, dlc.zeros(x.shape[0], dtype=dlc.int64), reduction="none"),
        lambda x: TF.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.int64), reduction="none"),
    ),
}  # fmt: skip
_LEFT_TO_ONE = frozenset(("max", "min"))  # PyTorch's max(dim) gives all to one place, its amax shares, as dlc does


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, interpreted):
    ours, theirs = REDUCTIONS[name]
    x = np.array(ROWS, F32)
    with np.errstate(all="ignore"):
        got = _all(ours, x)
    same, wide = _all_of_torch(theirs, x), _all_of_torch(theirs, x.astype(F64))
    for order in range(1 if name in _LEFT_TO_ONE else 2):
        scale = np.abs(np.nan_to_num(wide[order], posinf=0, neginf=0)).max(-1, keepdims=True)
        ok = _near(got[order], same[order], ERRORS[F32][order]) | _near(got[order], wide[order], ERRORS[F32][order])
        ok |= np.abs(got[order] - wide[order]) <= 1e-5 * scale
        bad = np.argwhere(~ok)
        assert not bad.size, [(x[b[0]], got[order][b[0]], same[order][b[0]]) for b in bad]
    wrong = np.isnan(got[2]) & ~np.isnan(same[2])
    assert not wrong.any(), x[np.argwhere(wrong)[0, 0]]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_what_is_not_finite(name, interpreted):
    ours, theirs = REDUCTIONS[name]
    x = np.array(ENDS, F32)
    with np.errstate(all="ignore"):
        got = ours(dlc.asarray(x)).numpy()
    want = theirs(torch.tensor(x)).numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, 1e-5)


@pytest.mark.parametrize("count", [1, 3, 7, 10, 1000])
def test_the_deviation_of_equal_elements_is_constant(count):
    """Whatever their mean is rounded to."""
    for value in (0.1, 1 / 3, 1e10, 1e-20, 123456.7):
        x = dlc.asarray(np.full((2, count), value, F32))
        value_, slope = dlc.jit(dlc.value_and_grad(lambda x: dlc.std(x, axis=-1).sum()))(x)
        assert value_.item() == 0 and not slope.numpy().any()


@pytest.mark.parametrize("p", [3.0, 0.5, 1.5, -1.0, 2.0])
def test_norms_of_nothing_have_no_slope(p):
    slope = dlc.jit(dlc.grad(lambda v: dlc.vector_norm(v, ord=p)))(dlc.zeros(5)).numpy()
    np.testing.assert_array_equal(slope, np.zeros(5))
    unit = dlc.jit(dlc.grad(lambda v: F.normalize(v, p=p, dim=0).sum()))(dlc.zeros(5)).numpy()
    np.testing.assert_allclose(unit, np.full(5, 1e12), 1e-6)


def test_products_with_zeros():
    x = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0], [1e-30, 1e30, 2.0]], F32)
    want = np.array([[0, 6, 0], [0, 0, 0], [0, 0, 0], [2e30, 2e-30, 1]], F32)
    slope = dlc.jit(dlc.grad(lambda x: dlc.prod(x, axis=-1).sum()))
    np.testing.assert_allclose(slope(dlc.asarray(x)).numpy(), want, 1e-6)


# -- order and NaN --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_nan_is_the_largest(dtype):
    values = np.array([[2, math.nan, 1, -math.inf], [math.nan, math.inf, math.nan, 0], [3, 1, 2, 0]], F32)
    x, t = dlc.astype(dlc.asarray(values), getattr(dlc, dtype)), torch.tensor(values).to(getattr(torch, dtype))

    def all_of(x):
        return (*((dlc.sort(x, descending=d), dlc.argsort(x, descending=d)) for d in (False, True)),
                *(dlc.topk(x, 2, largest=large) for large in (True, False)))

    want = [torch.sort(t, descending=d, stable=True) for d in (False, True)]
    want += [torch.topk(t, 2, largest=large) for large in (True, False)]
    for f in (all_of, dlc.jit(all_of)):
        for k, ((found, places), (their_values, their_places)) in enumerate(zip(f(x), want, strict=True)):
            found = dlc.astype(found, dlc.float32).numpy()
            np.testing.assert_array_equal(found, their_values.float().numpy())
            np.testing.assert_array_equal(np.take_along_axis(t.float().numpy(), places.numpy(), -1), found)
            if k < 2:  # stable; which of two NaN stands first in topk is open
                np.testing.assert_array_equal(places.numpy(), their_places.numpy())
    np.testing.assert_array_equal(dlc.argmax(x, axis=-1).numpy(), torch.argmax(t, -1).numpy())
    np.testing.assert_array_equal(dlc.argmin(x, axis=-1).numpy(), torch.argmin(t, -1).numpy())
