"""Products, einsum, diagonals and norms against NumPy."""

import numpy as np
import pytest

import dlc
from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend.array import linalg
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

RNG = np.random.default_rng(0)


def rand(*shape):
    return RNG.normal(size=shape)


def same(got, want, tol=1e-12):
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=tol, atol=tol)


MATMUL = [
    ((3, 4), (4, 5)), ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)), ((1, 3, 4), (6, 4, 5)), ((6, 1, 3, 4), (1, 2, 4, 5)), ((2, 3, 4), (4,)), ((4,), (2, 4, 5)),
    ((1, 1), (1, 1)), ((0, 4), (4, 5)), ((3, 0), (0, 5)), ((0, 3, 4), (4, 5)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", MATMUL)
def test_matmul(shapes):
    x, y = (rand(*s) for s in shapes)
    same(linalg.matmul(Tensor(x), Tensor(y)), x @ y)


def test_matmul_dtypes():
    for name in ("int8", "int64", "uint8", "float16", "bfloat16", "float32"):
        d = dtypes.by_name(name)
        got = linalg.matmul(Tensor([[1, 2], [3, 4]], d), Tensor([[1], [2]], d))
        assert got.dtype is d and got.numpy().astype(float).tolist() == [[5], [11]]
    assert linalg.matmul(Tensor([[1]]), Tensor([[1.5]])).dtype is dtypes.float32
    big = Tensor(np.full((1, 4096), 0.1), dtypes.float16)
    assert abs(float(linalg.matmul(big, Tensor(np.ones((4096, 1)), dtypes.float16)).item()) - 409.5) < 0.5
    with pytest.raises(DTypeError, match="bool"):
        linalg.matmul(Tensor([[True]]), Tensor([[True]]))


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (((3, 4), (3, 4)), r"shapes \(3, 4\) and \(3, 4\) do not fit: 4 columns meet 3 rows"),
        (((), (3,)), "at least one dimension"),
        (((2, 3, 4), (5, 4, 3)), "do not broadcast"),
    ],
)
def test_matmul_errors(shapes, text):
    with pytest.raises(ShapeError, match=text) as info:
        linalg.matmul(*(Tensor(rand(*s)) for s in shapes))
    assert "matmul" in str(info.value) and "test_linalg.py" in str(info.value)


def test_other_products():
    x, y = rand(2, 3, 4), rand(3, 4, 5)
    for axes in (0, 2, ((1, 2), (0, 1)), ((2, 1), (1, 0)), ([1], [0])):
        same(linalg.tensordot(Tensor(x), Tensor(y), axes), np.tensordot(x, y, axes))
    same(linalg.vecdot(Tensor(x), Tensor(rand_like := x + 1)), np.vecdot(x, rand_like))
    same(linalg.vecdot(Tensor(x), Tensor(x[:1]), axis=-2), (x * x[:1]).sum(-2))
    same(linalg.outer(Tensor([1.0, 2.0]), Tensor([3.0, 4.0, 5.0])), np.outer([1, 2], [3, 4, 5]))
    same(linalg.dot(Tensor(x), Tensor(y[0])), np.dot(x, y[0]))
    same(linalg.bmm(Tensor(x), Tensor(x.swapaxes(1, 2))), x @ x.swapaxes(1, 2))
    same(linalg.kron(Tensor(x[0]), Tensor(y[0])), np.kron(x[0], y[0]))
    p, q = rand(5, 3), rand(3)
    same(linalg.cross(Tensor(p), Tensor(q)), np.cross(p, q))
    for f, args in ((linalg.tensordot, (1,)), (linalg.bmm, ()), (linalg.outer, ()), (linalg.vecdot, ())):
        with pytest.raises(ShapeError, match=f.__name__):
            f(Tensor(x), Tensor(y), *args)


EINSUM = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk", (2, 3), (3, 4)), ("ji,jk->ki", (3, 2), (3, 4)), ("i,i", (3,), (3,)),
    ("i,j->ij", (3,), (4,)), ("i,j->", (3,), (4,)), ("ij->ji", (2, 3)), ("ij->", (2, 3)), ("ij->j", (2, 3)),
    ("ii->i", (3, 3)), ("ii", (3, 3)), ("iij->ij", (3, 3, 2)), ("iji->j", (3, 2, 3)), ("iii->i", (2, 2, 2)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), ("...ij,...jk->...ik", (2, 3, 4), (4, 5)), ("...i,...i", (2, 3), (2, 3)),
    ("...ij,...jk->...ik", (6, 1, 3, 4), (1, 2, 4, 5)), ("...->...", (2, 3)), ("i...->...i", (2, 3, 4)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)), ("ij,jk,kl,l->i", (2, 3), (3, 4), (4, 2), (2,)),
    ("i,i,i->i", (3,), (3,), (3,)),
    ("ij,ik,il->jkl", (2, 3), (2, 4), (2, 5)), ("ij,kl->il", (2, 3), (4, 5)), ("ii,jj->ij", (2, 2), (3, 3)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), (",ij->ji", (), (2, 3)), ("...a,b...->ab...", (2, 3), (4, 2)),
    ("i,->i", (3,), ()), ("ijk,ilm,njm,nlk,abc->", (2, 3, 4), (2, 2, 3), (2, 3, 3), (2, 2, 4), (1, 2, 3)),
    ("ij,jk->ik", (0, 3), (3, 4)), ("ij,jk->ik", (2, 0), (0, 4)), ("Ab , bC -> CA", (2, 3), (3, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", EINSUM, ids=lambda c: c[0])
def test_einsum(case):
    arrays = [rand(*s) for s in case[1:]]
    same(linalg.einsum(case[0], *map(Tensor, arrays)), np.einsum(case[0], *arrays))


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)]), ("ij->ik", [(2, 3)]), ("ij,jk", [(2, 3)]), ("ij", [(2, 3, 4)]),
        ("i1", [(2, 3)]), ("ij->ii", [(2, 3)]), ("...i->i", [(2, 3)]), ("ii", [(2, 3)]),
    ],
)  # fmt: skip
def test_einsum_errors(spec, shapes):
    with pytest.raises(ShapeError, match="einsum"):
        linalg.einsum(spec, *(Tensor(rand(*s)) for s in shapes))


def test_diagonals():
    x = rand(3, 4, 5)
    for offset in (-4, -3, -1, 0, 2, 4, 5, 7):
        same(linalg.diagonal(Tensor(x), offset=offset), np.diagonal(x, offset, -2, -1))
        same(linalg.diagonal(Tensor(x), offset=offset, axis1=2, axis2=0), np.diagonal(x, offset, 2, 0))
        same(linalg.trace(Tensor(x), offset=offset), np.trace(x, offset, -2, -1))
    for k in (-2, 0, 1):
        same(linalg.diag(Tensor(x[0, 0]), k), np.diag(x[0, 0], k))
        same(linalg.diag(Tensor(x[0]), k), np.diag(x[0], k))
    same(linalg.diag(Tensor(np.zeros(0))), np.zeros((0, 0)))


def test_norms():
    x = rand(3, 4, 5)
    for ord in (0, 1, 2, 3, np.inf, -np.inf):
        for axis in (0, -1):
            want = np.linalg.norm(x, ord, axis)
            same(linalg.vector_norm(Tensor(x), axis=axis, ord=ord), want)
            same(linalg.vector_norm(Tensor(x), axis=axis, ord=ord, keepdims=True), np.expand_dims(want, axis))
    same(linalg.norm(Tensor(x)), np.linalg.norm(x.ravel()))
    same(linalg.norm(Tensor(x), "fro", (1, 2)), np.linalg.norm(x, "fro", (1, 2)))
    for ord in ("fro", 1, -1, np.inf, -np.inf):
        same(linalg.matrix_norm(Tensor(x), ord=ord), np.linalg.norm(x, ord, (1, 2)))
    zero = Tensor(np.zeros(3), requires_grad=True)
    linalg.norm(zero).backward()
    assert zero.grad.numpy().tolist() == [0, 0, 0]


def test_gradients():
    cases = ("bij,jk->bik", (2, 3, 4), (4, 5)), ("ii,i->", (3, 3), (3,)), ("...i,...i->...", (2, 3), (3,))
    for spec, *shapes in cases:
        arrays = [rand(*s) for s in shapes]
        ts = [Tensor(a, requires_grad=True) for a in arrays]
        out = linalg.einsum(spec, *ts)
        out.backward(Tensor(np.ones(out.shape)))
        for k, a in enumerate(arrays):
            for i in list(np.ndindex(a.shape))[:6]:
                up, down = [v.copy() for v in arrays], [v.copy() for v in arrays]
                up[k][i] += 1e-6
                down[k][i] -= 1e-6
                want = (np.einsum(spec, *up).sum() - np.einsum(spec, *down).sum()) / 2e-6
                np.testing.assert_allclose(ts[k].grad.numpy()[i], want, rtol=1e-5, atol=1e-6)


def test_norms_of_unknown_order():
    with pytest.raises(dlc.ShapeError, match="'nuc' is not a number"):
        dlc.norm(dlc.asarray(np.eye(3)), "nuc")
