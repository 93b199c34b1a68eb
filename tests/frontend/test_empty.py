"""Tensors without elements: every function gives what PyTorch gives, eagerly, compiled, and its gradient; never an
error from inside the compiler."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F

torch = pytest.importorskip("torch")
TF = torch.nn.functional

SHAPES = [(0,), (3, 0), (2, 0, 3)]


def _given(shape, dtype=np.float32, high=3):
    rng = np.random.default_rng(3)
    if dtype is np.int64:
        return rng.integers(0, high, shape)
    return rng.standard_normal(shape).astype(dtype)


def _flat(out) -> list:
    return [t for part in out for t in _flat(part)] if isinstance(out, (tuple, list)) else [out]


def _total(out):
    floats = [t.sum() for t in _flat(out) if dlc.isdtype(t.dtype, "real floating")]
    return sum(floats, dlc.zeros(()))


def check(ours, theirs, *arrays) -> None:
    """Values and gradients, eagerly and compiled."""
    leaves = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    want = [t for t in _flat(theirs(*leaves)) if t is not None]
    given = [dlc.asarray(a) for a in arrays]
    for f in (ours, dlc.jit(ours)):
        for got, w in zip(_flat(f(*given)), want, strict=True):
            assert tuple(got.shape) == tuple(w.shape)
            np.testing.assert_allclose(got.numpy(), w.detach().numpy(), 1e-5, 1e-6)
    wrt = tuple(k for k, leaf in enumerate(leaves) if leaf.requires_grad)
    outs = [t.sum() for t in want if t.requires_grad]
    if not outs:
        return
    slopes = torch.autograd.grad(sum(outs), [leaves[k] for k in wrt], allow_unused=True)
    gradient = dlc.grad(lambda *a: _total(ours(*a)), argnums=wrt)
    for g in (gradient, dlc.jit(gradient)):
        for got, k, w in zip(g(*given), wrt, slopes, strict=True):
            assert tuple(got.shape) == arrays[k].shape
            np.testing.assert_allclose(got.numpy(), np.zeros(arrays[k].shape) if w is None else w.numpy(), 1e-5, 1e-6)


def _every_axis(x, f):
    return [f(x, axis) for axis in range(-x.ndim, 0)]


def _or_nothing(f):
    """f of those axes that have elements."""
    return lambda x, axis: f(x, axis) if x.shape[axis] else x * 2


ALONG = {
    **{n: (lambda x, a, n=n: getattr(dlc, n)(x, axis=a), lambda x, a, n=n: getattr(torch, n)(x, dim=a))
       for n in ("sum", "mean", "prod", "cumsum", "cumprod", "diff", "logsumexp")},
    **{n: (_or_nothing(lambda x, a, n=n: getattr(dlc, n)(x, axis=a)),
           _or_nothing(lambda x, a, n=n: getattr(torch, n)(x, dim=a))) for n in ("amax", "amin", "argmax", "argmin")},
    **{n: (lambda x, a, n=n: getattr(dlc, n)(x, axis=a), lambda x, a, n=n: getattr(torch, n)(x, dim=a, correction=0))
       for n in ("var", "std")},
    **{n: (lambda x, a, n=n: getattr(dlc, n)(x > 0, axis=a), lambda x, a, n=n: getattr(torch, n)(x > 0, dim=a))
       for n in ("all", "any")},
    **{f"F.{n}": (lambda x, a, n=n: getattr(F, n)(x, a), lambda x, a, n=n: getattr(TF, n)(x, a))
       for n in ("softmax", "log_softmax", "softmin")},
    **{f"normalize {p}": (lambda x, a, p=p: F.normalize(x, p=p, dim=a), lambda x, a, p=p: TF.normalize(x, p=p, dim=a))
       for p in (0.0, 1.0, 2.0, 3.0)},
    "sort": (lambda x, a: (dlc.sort(x, axis=a), dlc.argsort(x, axis=a)),
             lambda x, a: torch.sort(x, dim=a, stable=True)),
    "topk": (lambda x, a: dlc.topk(x, 0, axis=a), lambda x, a: torch.topk(x, 0, dim=a)),
    "flip": (lambda x, a: dlc.flip(x, axis=a), lambda x, a: torch.flip(x, (a,))),
    "roll": (lambda x, a: dlc.roll(x, 1, axis=a), lambda x, a: torch.roll(x, 1, a)),
    "concat": (lambda x, a: dlc.concat([x, x], axis=a), lambda x, a: torch.cat([x, x], a)),
    "stack": (lambda x, a: dlc.stack([x, x], axis=a), lambda x, a: torch.stack([x, x], a)),
}  # fmt: skip


def test_gates_of_nothing():
    for shape, dim in (((0,), 0), ((0, 3), 0), ((3, 0), -1)):
        x = dlc.zeros(shape)
        assert F.glu(x, dim).shape == dlc.grad(lambda x, dim=dim: F.glu(x, dim).sum())(x).shape == shape


@pytest.mark.parametrize("shape", SHAPES)
def test_along_every_axis(shape):
    """In one program a shape, so that what one function leaves another meets."""
    check(
        lambda x: [_every_axis(x, ours) for ours, _ in ALONG.values()],
        lambda x: [_every_axis(x, theirs) for _, theirs in ALONG.values()],
        _given(shape),
    )


_PAIRS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "kl_div")
_ELEMENTWISE = ("relu", "gelu", "silu", "elu", "softplus", "mish", "hardswish", "logsigmoid", "leaky_relu", "sigmoid")


@pytest.mark.parametrize("shape", SHAPES)
def test_elementwise_functions_and_losses(shape):
    def made_by(library, functions):
        def f(x, y):
            found = [getattr(functions, n)(x) for n in _ELEMENTWISE]
            found += [library.where(x > 0, x, y), (x * y).sum(), x.mean(), library.tile(x, (2,))]
            return found + [getattr(functions, n)(x, y, reduction=r) for n in _PAIRS for r in ("mean", "sum", "none")]

        return f

    check(made_by(dlc, F), made_by(torch, TF), _given(shape), _given(shape))


PRODUCTS = [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((2, 3), (3, 0)), ((0, 2, 3), (3, 2)), ((2, 0, 3), (2, 3, 2)),
            ((2, 2, 0), (2, 0, 3)), ((0,), (0,)), ((0, 0), (0, 0)), ((0,), (0, 3)), ((3, 0), (0,))]  # fmt: skip


@pytest.mark.parametrize("left,right", PRODUCTS)
def test_products(left, right):
    check(dlc.matmul, torch.matmul, _given(left), _given(right))


@pytest.mark.parametrize("x,w", [((0, 3), (4, 3)), ((2, 0), (4, 0)), ((2, 3), (0, 3))])
def test_linear(x, w):
    check(F.linear, TF.linear, _given(x), _given(w), _given(w[:1]))


@pytest.mark.parametrize("padding", [0, 1])
def test_convolutions(padding):
    x, w = _given((0, 3, 8, 8)), _given((4, 3, 3, 3))
    check(lambda x, w: F.conv2d(x, w, padding=padding), lambda x, w: TF.conv2d(x, w, padding=padding), x, w)
    t = _given((3, 4, 3, 3))
    check(F.conv_transpose2d, TF.conv_transpose2d, x, t)
    nothing = dlc.jit(lambda x, w: F.conv2d(x, w, padding=padding))(dlc.zeros(2, 0, 8, 8), dlc.zeros(4, 0, 3, 3))
    np.testing.assert_array_equal(nothing.numpy(), np.zeros((2, 4, 6 + 2 * padding, 6 + 2 * padding)))


IMAGES = {
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), lambda x: TF.max_pool2d(x, 2)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), lambda x: TF.avg_pool2d(x, 2)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: TF.adaptive_avg_pool2d(x, 1)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2.0), lambda x: TF.interpolate(x, scale_factor=2.0)),
    "bilinear": (lambda x: F.interpolate(x, size=(4, 4), mode="bilinear"),
                 lambda x: TF.interpolate(x, size=(4, 4), mode="bilinear")),
    "group_norm": (lambda x: F.group_norm(x, 3), lambda x: TF.group_norm(x, 3)),
    "instance_norm": (F.instance_norm, TF.instance_norm),
    "layer_norm": (lambda x: F.layer_norm(x, x.shape[-1:]), lambda x: TF.layer_norm(x, x.shape[-1:])),
    "rms_norm": (lambda x: F.rms_norm(x, x.shape[-1:]), lambda x: TF.rms_norm(x, x.shape[-1:])),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_no_images(name):
    check(*IMAGES[name], _given((0, 3, 8, 8)))


@pytest.mark.parametrize("name", ["adaptive", "layer_norm", "rms_norm"])
def test_images_without_rows(name):
    check(*IMAGES[name], _given((2, 3, 0, 8)))


def test_images_without_pixels_are_not_resized():
    for f in (lambda x: F.interpolate(x, size=(4, 4), mode="bilinear"), lambda x: F.adaptive_avg_pool2d(x, 3)):
        with pytest.raises(dlc.ShapeError, match="no elements"):
            f(dlc.zeros(2, 3, 0, 8))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 0, 8), (0, 3)])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(shape, training):
    """Statistics of nothing are not remembered."""
    ours, theirs = (dlc.full((3,), 5.0), dlc.full((3,), 7.0)), (torch.full((3,), 5.0), torch.full((3,), 7.0))
    check(
        lambda x, w, b: F.batch_norm(x, *ours, w, b, training=training),
        lambda x, w, b: TF.batch_norm(x, *theirs, w, b, training=training),
        _given(shape), _given((3,)), _given((3,)),
    )  # fmt: skip
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


ATTENTION = [((2, 0, 4), (2, 3, 4), (2, 3, 4)), ((2, 3, 4), (2, 0, 4), (2, 0, 4)), ((0, 3, 4), (0, 3, 4), (0, 3, 4)),
             ((2, 3, 0), (2, 3, 0), (2, 3, 4)), ((2, 3, 4), (2, 3, 4), (2, 3, 0)), ((2, 2, 0, 4),) * 3]  # fmt: skip


@pytest.mark.parametrize("shapes", ATTENTION)
@pytest.mark.parametrize("causal", [False, True])
def test_attention(shapes, causal):
    check(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, is_causal=causal),
        *map(_given, shapes),
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_classes(reduction):
    for logits, target in (((0, 5), (0,)), ((2, 5, 0), (2, 0))):
        for name in ("cross_entropy", "nll_loss"):
            check(
                lambda x, t, name=name: getattr(F, name)(x, t, reduction=reduction),
                lambda x, t, name=name: getattr(TF, name)(x, t, reduction=reduction),
                _given(logits), _given(target, np.int64),
            )  # fmt: skip
    for name in ("cross_entropy", "binary_cross_entropy"):
        check(
            lambda x, t, name=name: getattr(F, name)(x, t, reduction=reduction),
            lambda x, t, name=name: getattr(TF, name)(x, t, reduction=reduction),
            _given((0, 5)), _given((0, 5)),
        )  # fmt: skip


@pytest.mark.parametrize("shape,index", [((3, 0), (2,)), ((3, 2), (0,)), ((0, 2), (0,)), ((3, 0, 2), (2,))])
def test_indices(shape, index):
    """A reduction over an empty axis of what a run-time index selects, too."""
    def both(x, i):
        return [x[i], x[i].sum(-1), x[i].mean(0), (x[i] * x[i]).sum(), x[i].prod(-1)]

    check(
        lambda x, i: [*both(x, i), dlc.take(x, i, axis=0), F.embedding(i, x) if x.ndim == 2 else x],
        lambda x, i: [*both(x, i), x[i], TF.embedding(i, x) if x.ndim == 2 else x],
        _given(shape),
        _given(index, np.int64),
    )


def test_an_integer_index():
    x = dlc.asarray(np.zeros((2, 0), np.float32))
    for k in (0, 1, -1):
        assert x[k].sum().item() == 0
        assert dlc.jit(lambda x, k: x[k].sum())(x, k).item() == 0


def test_loops_without_iterations_give_what_they_began_with():
    carry, rows = dlc.jit(lambda x: dlc.scan(lambda c, y: (c + y, c * y), dlc.ones(3), x))(dlc.zeros(0, 3))
    np.testing.assert_array_equal(carry.numpy(), np.ones(3))
    assert rows.shape == (0, 3)


def test_vmap_and_recurrence():
    check(dlc.vmap(lambda r: r.sum()), lambda x: x.sum(1), _given((3, 0)))
    check(dlc.vmap(lambda r: r.sum()), lambda x: x.sum(1), _given((0, 3)))
    for name in ("RNN", "LSTM", "GRU"):
        layer = getattr(dlc.nn, name)(3, 5)
        out, _ = dlc.jit(lambda x, layer=layer: layer(x))(dlc.zeros(4, 0, 3))
        assert out.shape == (4, 0, 5)


def test_covariances_and_bins():
    check(dlc.cov, torch.cov, _given((3, 0)))
    np.testing.assert_array_equal(dlc.bincount(dlc.asarray(_given((0,), np.int64)), 4).numpy(), np.zeros(4))
    found = dlc.searchsorted(dlc.zeros(0), dlc.tensor([1.0, math.nan]))
    np.testing.assert_array_equal(found.numpy(), [0, 0])
