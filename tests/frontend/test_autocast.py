"""autocast: which operations change dtype, what gradients and parameters keep, and what jit makes of it."""

import threading
import warnings

import numpy as np
import pytest

import dlc
from dlc import DTypeError
from tests.nn.against_torch import normal

HALF = [dlc.bfloat16, dlc.float16]


def t(*shape, dtype=None, grad=False, seed=0):
    return dlc.tensor(normal(*shape, seed=seed), dtype=dtype, requires_grad=grad)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize(
    "product",
    [
        lambda a, b: a @ b.T,
        lambda a, b: dlc.matmul(a, b[0]),
        lambda a, b: dlc.dot(a[0], b[0]),
        lambda a, b: dlc.bmm(a[None], b.T[None]),
        lambda a, b: dlc.tensordot(a, b, ((1,), (1,))),
        lambda a, b: dlc.vecdot(a, b),
        lambda a, b: dlc.einsum("ij,kj->ik", a, b),
        lambda a, b: dlc.einsum("ij,kj,il->kl", a, b, a),
    ],
)
def test_contractions_take_and_give_the_half_type(product, half):
    a, b = t(4, 8), t(4, 8, seed=1)
    exact = product(a, b)
    with dlc.autocast(half):
        for x, y in [(a, b), (a, b.astype(half)), (a.astype(dlc.float16), b.astype(dlc.bfloat16))]:
            assert product(x, y).dtype is half
        out = product(a, b)
        assert product(a.astype(dlc.float64), b).dtype is dlc.float64
        assert product(dlc.arange(32).reshape(4, 8), dlc.arange(32).reshape(4, 8)).dtype is dlc.int64
    assert exact.dtype is dlc.float32 and product(a, b).dtype is dlc.float32
    np.testing.assert_allclose(out.astype(dlc.float32).numpy(), exact.numpy(), rtol=0.02, atol=0.1)


def test_accumulates_in_float32():
    ones = dlc.ones(5000)
    with dlc.autocast(dlc.bfloat16):
        assert (ones @ ones).item() == 4992  # bfloat16's neighbour of 5000; sums in bfloat16 end at 256
    with dlc.autocast(dlc.float16):
        assert (ones @ ones).item() == 5000


def test_other_operations_follow_their_operands():
    x, h = t(3, 4), t(3, 4, dtype=dlc.bfloat16)
    with dlc.autocast():
        assert (h * 2.5).dtype is dlc.bfloat16 and dlc.exp(h).dtype is dlc.bfloat16
        assert (h + x).dtype is dlc.float32 and (x * x).dtype is dlc.float32
        assert dlc.sum(x).dtype is dlc.float32 and dlc.outer(x[0], x[1]).dtype is dlc.float32
        assert dlc.cov(x).dtype is dlc.float32
        np.testing.assert_allclose(dlc.cov(x).numpy(), np.cov(x.numpy()), rtol=1e-5)


def test_nests_and_ends():
    x = t(2, 2)
    assert dlc.get_autocast_dtype() is None
    with dlc.autocast(dlc.float16):
        assert dlc.get_autocast_dtype() is dlc.float16
        with dlc.autocast(dlc.bfloat16), dlc.autocast(enabled=False):
            assert (x @ x).dtype is dlc.float32 and dlc.get_autocast_dtype() is None
        assert (x @ x).dtype is dlc.float16
        with pytest.raises(RuntimeError, match="out"), dlc.autocast(dlc.bfloat16):
            raise RuntimeError("out")
        assert (x @ x).dtype is dlc.float16
    assert (x @ x).dtype is dlc.float32


def test_decorates_and_stays_in_its_thread():
    context = dlc.autocast(dlc.bfloat16)
    inside, go, seen = threading.Event(), threading.Event(), []

    @context
    def f(x, depth=1):
        return f(x, depth - 1) if depth else x @ x

    @context
    def wait():
        inside.set()
        go.wait(10)
        seen.append(dlc.get_autocast_dtype())

    thread = threading.Thread(target=wait)
    thread.start()
    assert inside.wait(10)
    assert dlc.get_autocast_dtype() is None
    assert f(t(2, 2)).dtype is dlc.bfloat16
    go.set()
    thread.join()
    assert seen == [dlc.bfloat16] and dlc.get_autocast_dtype() is None


@pytest.mark.parametrize("dtype", ["cuda", dlc.float32, dlc.float64, dlc.int8])
def test_only_half_types(dtype):
    with pytest.raises(DTypeError, match=r"bfloat16 or dlc.float16, not .*\n  at .*test_autocast"):
        dlc.autocast(dtype)


def test_repr_is_the_call():
    assert repr(dlc.autocast(dlc.float16, enabled=False)) == "dlc.autocast(dlc.float16, enabled=False)"


# --- gradients ---------------------------------------------------------------------------------------------------


def gradients(backward_inside):
    x, w = t(5, 8, grad=True), t(3, 8, seed=1, grad=True)
    with dlc.autocast():
        y = x @ w.T
        if backward_inside:
            dlc.sum(y * y).backward()
    if not backward_inside:
        dlc.sum(y * y).backward()
    return x.grad, w.grad


def test_gradients_are_float32_wherever_backward_is_called():
    inside, outside = gradients(True), gradients(False)
    x, w = normal(5, 8), normal(3, 8, seed=1)
    y = x @ w.T
    for a, b, want in zip(inside, outside, (2 * y @ w, 2 * y.T @ x), strict=True):
        assert a.dtype is b.dtype is dlc.float32
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert 0 < np.abs(a.numpy() - want).max() < 0.03 * np.abs(want).max()


def test_transforms_inherit_it():
    w, xs = t(4, 4), t(3, 4, seed=1)
    with dlc.autocast():
        assert dlc.vmap(lambda x: w @ x)(xs).dtype is dlc.bfloat16
        assert dlc.checkpoint(lambda x: w @ x)(xs[0]).dtype is dlc.bfloat16
        carry, ys = dlc.scan(lambda c, x: (c + (w @ x).astype(dlc.float32), w @ x), dlc.zeros(4), xs)
        assert (carry.dtype, ys.dtype) == (dlc.float32, dlc.bfloat16)
        assert dlc.grad(lambda x: dlc.sum(w @ x))(xs[0]).dtype is dlc.float32
        y, pull = dlc.vjp(lambda x: w @ x, xs[0])
        assert dlc.jvp(lambda x: w @ x, (xs[0],), (xs[1],))[1].dtype is dlc.bfloat16
    assert y.dtype is dlc.bfloat16
    (g,) = pull(dlc.ones(4, dtype=dlc.bfloat16))
    assert g.dtype is dlc.float32
    np.testing.assert_allclose(g.numpy(), w.numpy().sum(0), rtol=0.02, atol=0.05)


def test_checkpoint_recomputes_in_the_forwards_dtypes():
    def run(wrap):
        x, w = t(5, 8, grad=True), t(8, 8, seed=1, grad=True)
        with dlc.autocast():
            loss = dlc.sum(wrap(lambda x, w: dlc.tanh(x @ w) @ w)(x, w))
        loss.backward()
        return [x.grad.numpy(), w.grad.numpy()]

    for a, b in zip(run(lambda f: f), run(dlc.checkpoint), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)


# --- jit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [(), (2.0,)])  # the key of plain Tensors, and the general one
def test_jit_keys_on_it(extra):
    f = dlc.jit(lambda x, *s: x @ x)
    x = t(4, 4)
    assert f(x, *extra).dtype is dlc.float32
    with dlc.autocast(dlc.bfloat16):
        assert f(x, *extra).dtype is dlc.bfloat16
        with dlc.autocast(enabled=False):
            assert f(x, *extra).dtype is dlc.float32
        with dlc.autocast(dlc.float16):
            assert f(x, *extra).dtype is dlc.float16
    assert f.traces == 3
    assert f(x, *extra).dtype is dlc.float32
    with dlc.autocast(dlc.bfloat16):
        assert f(x, *extra).dtype is dlc.bfloat16
    assert f.traces == 3


def test_jit_of_a_decorated_function_and_the_other_way_round():
    inner = dlc.jit(dlc.autocast()(lambda x: x @ x))
    outer = dlc.autocast()(dlc.jit(lambda x: x @ x))
    for f in (inner, outer, dlc.jit(outer)):
        assert f(t(2, 2)).dtype is dlc.bfloat16 and f(t(2, 2, seed=1)).dtype is dlc.bfloat16
    assert inner.traces == 1


def test_jit_watches_what_a_decorated_function_names():
    factor = 2.0

    @dlc.jit
    @dlc.autocast()
    def f(x):
        return (x @ x) * factor

    assert f(dlc.ones(2, 2)).tolist() == [[4, 4], [4, 4]]
    factor = 3.0
    assert f(dlc.ones(2, 2)).tolist() == [[6, 6], [6, 6]]


def test_backward_through_a_jitted_result_uses_the_forwards_dtypes():
    w = t(8, 8, grad=True)
    forward = dlc.jit(lambda x: x @ w)
    x = t(5, 8, seed=1)
    with dlc.autocast():
        y = forward(x)
    dlc.sum(y * y).backward()
    assert y.dtype is dlc.bfloat16 and w.grad.dtype is dlc.float32
    want = 2 * x.numpy().T @ (x.numpy() @ w.numpy())
    assert 0 < np.abs(w.grad.numpy() - want).max() < 0.03 * np.abs(want).max()


def test_the_retrace_warning_names_it():
    f = dlc.jit(lambda x: x @ x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for n in range(2, 10):
            f(t(n, n))
        with dlc.autocast():
            f(t(9, 9))
    assert "dlc.autocast changed from off to bfloat16" in str(caught[-1].message)


def test_errors_name_the_users_line():
    with dlc.autocast(), pytest.raises(dlc.ShapeError, match=r"test_autocast\.py:\d+"):
        t(2, 3) @ t(2, 3)
