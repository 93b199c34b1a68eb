"""Random numbers: the generator against a plain one, reproducibility in and out of jit, distributions."""

import numpy as np
import pytest
import scipy.stats

import dlc
from dlc.base.errors import DTypeError, ShapeError
from dlc.frontend import methods, random
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes
from dlc.ir.scalar import threefry2x32

methods.install()
N = 20000


@pytest.fixture(autouse=True)
def _seeded():
    random.manual_seed(1234)


def test_bits_are_threefry():
    # known answers of Random123: threefry2x32, 20 rounds
    ones = (2**32 - 1, 2**32 - 1)
    known = ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)), (ones, ones, (0x1CB996FC, 0xBB002BE7))
    for k, c, want in known:
        with np.errstate(over="ignore"):
            got = threefry2x32(*(np.asarray([w], np.uint32) for w in (*k, *c)))
        assert tuple(int(g[0]) for g in got) == want
    first = random.bits((3,), key=random.key(7)).numpy()
    with np.errstate(over="ignore"):
        high, low = threefry2x32(*(np.array([w] * 3, np.uint32) for w in (0, 7, 0)), np.arange(3, dtype=np.uint32))
    np.testing.assert_array_equal(first, (high.astype(np.uint64) << np.uint64(32)) | low)


def test_seed_reproduces_and_draws_differ():
    a, c = random.uniform((5,)).numpy(), random.uniform((5,)).numpy()
    assert not np.array_equal(a, c)
    random.seed(1234)
    np.testing.assert_array_equal(random.uniform((10,)).numpy(), np.concatenate([a, c]))
    own = random.Generator(1234)
    np.testing.assert_array_equal(random.uniform((5,), generator=own).numpy(), a)
    saved = own.state.numpy().copy()
    later = random.normal((4,), generator=own).numpy()
    own.state.assign(Tensor(saved))
    np.testing.assert_array_equal(random.normal((4,), generator=own).numpy(), later)


def test_jit_draws_the_same_numbers_and_new_ones_each_call():
    eager = [random.normal((4,)).numpy() for _ in range(4)]
    random.seed(1234)
    f = dlc.jit(lambda: (random.normal((4,)), random.normal((4,))))
    got = [t.numpy() for _ in range(2) for t in f()]
    np.testing.assert_allclose(got, eager, rtol=1e-6)
    random.seed(1234)
    np.testing.assert_allclose(f()[0].numpy(), eager[0], rtol=1e-6)


def test_keys():
    k = random.key(5)
    np.testing.assert_array_equal(random.uniform((3,), key=k).numpy(), random.uniform((3,), key=k).numpy())
    keys = random.split(k, 100).numpy()
    assert len(set(keys.tolist())) == 100
    assert random.fold_in(k, 1).item() != random.fold_in(k, 2).item()
    x = random.uniform((3,), key=random.split(k)[0]).numpy()
    assert not np.array_equal(x, random.uniform((3,), key=random.split(k)[1]).numpy())
    with pytest.raises(DTypeError, match="a key is a uint64 scalar"):
        random.uniform((3,), key=Tensor(1))
    with pytest.raises(ShapeError, match="not both"):
        random.uniform((3,), key=k, generator=random.Generator())


FLOATS = [dtypes.float16, dtypes.bfloat16, dtypes.float32, dtypes.float64]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_floats(dtype):
    u = random.uniform((N,), dtype=dtype)
    assert u.dtype is dtype
    u = u.numpy().astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    # a half type has few distinct values: spread them over the gaps between
    spread = u + np.random.default_rng(0).uniform(0, {8: 2**-8, 11: 2**-11}.get(random._PRECISION[dtype], 0), N)
    assert scipy.stats.kstest(spread, "uniform").pvalue > 1e-3
    z = random.normal((N,), dtype=dtype)
    assert z.dtype is dtype
    z = z.numpy().astype(np.float64)
    assert np.isfinite(z).all() and abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    if dtype in (dtypes.float32, dtypes.float64):
        assert scipy.stats.kstest(z, "norm").pvalue > 1e-3


def test_parameters():
    u = random.uniform((N,), -3, 5).numpy()
    assert u.min() >= -3 and u.max() < 5 and abs(u.mean() - 1) < 0.1
    z = random.normal((N,), 2.0, 0.5).numpy()
    assert abs(z.mean() - 2) < 0.02 and abs(z.std() - 0.5) < 0.02
    z = random.normal((2, N), Tensor([[0.0], [9.0]])).numpy().mean(1)
    np.testing.assert_allclose(z, [0, 9], atol=0.05)
    e = random.exponential((N,)).numpy()
    assert scipy.stats.kstest(e, "expon").pvalue > 1e-3
    assert scipy.stats.kstest(random.gumbel((N,)).numpy(), "gumbel_r").pvalue > 1e-3
    assert random.rand(2, 3).shape == random.randn((2, 3)).shape == (2, 3)
    assert random.uniform().shape == () and random.normal((0, 2)).shape == (0, 2)


def test_integers():
    x = random.randint(-3, 4, (N,)).numpy()
    assert set(x.tolist()) == set(range(-3, 4))
    assert scipy.stats.chisquare(np.bincount(x + 3)).pvalue > 1e-3
    assert random.randint(5, shape=(3,), dtype=dtypes.uint8).dtype is dtypes.uint8
    whole = random.randint(-(2**63), 2**63, (100,)).numpy()
    assert (whole < 0).any() and (whole > 0).any()
    for bad in ((3, 3), (0, 300, (), dtypes.uint8)):
        with pytest.raises(ShapeError, match="randint"):
            random.randint(*bad[:3], dtype=bad[3] if len(bad) > 3 else dtypes.int64)


def test_choices():
    assert abs(random.bernoulli(0.3, (N,)).numpy().mean() - 0.3) < 0.02
    p = random.bernoulli(Tensor([0.0, 1.0])).numpy()
    assert p.tolist() == [False, True]
    assert random.dropout_mask((4, 5), 0.5).dtype is dtypes.bool_
    order = random.permutation(50).numpy()
    assert sorted(order.tolist()) == list(range(50)) and order.tolist() != list(range(50))
    x = np.arange(12).reshape(3, 4)
    got = random.permutation(Tensor(x), 1).numpy()
    assert sorted(got[0].tolist()) == [0, 1, 2, 3] and (got[1] - got[0] == 4).all()
    assert random.permutation(0).shape == (0,)
    weights = np.array([0.1, 0.0, 0.6, 0.3])
    counts = np.bincount(random.categorical(Tensor(np.log(weights + 1e-30)), shape=(N,)).numpy(), minlength=4)
    np.testing.assert_allclose(counts / N, weights, atol=0.02)
    drawn = random.multinomial(Tensor(np.stack([weights, weights[::-1]])), 3).numpy()
    assert drawn.shape == (2, 3) and sorted(drawn[0].tolist()) == [0, 2, 3] and sorted(drawn[1].tolist()) == [0, 1, 3]
    drawn = random.multinomial(Tensor(weights * 5), N, replacement=True).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / N, weights, atol=0.02)
    with pytest.raises(ShapeError, match="without replacement"):
        random.multinomial(Tensor(weights), 5)


def test_threads_do_not_share_numbers():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        draws = list(pool.map(lambda _: random.bits((8,)).numpy().tolist(), range(64)))
    flat = [v for d in draws for v in d]
    assert len(set(flat)) == len(flat)


# -- under vmap


def _after(seed, f):
    dlc.manual_seed(seed)
    return f().numpy()


@pytest.mark.parametrize("wrap", [lambda f: f, dlc.jit])
def test_each_example_of_vmap_draws_its_own_numbers(wrap):
    """Together they draw what one draw for the whole batch would have, and the stream goes on behind that."""
    f = wrap(dlc.vmap(lambda x: x + dlc.rand(4)))
    np.testing.assert_array_equal(_after(3, lambda: f(dlc.zeros(3, 4))), _after(3, lambda: dlc.rand(3, 4)))
    dlc.manual_seed(3)
    f(dlc.zeros(3, 4)).numpy()
    np.testing.assert_array_equal(dlc.rand(5).numpy(), _after(3, lambda: dlc.rand(17))[12:])


def test_nested_vmaps_and_loops_inside():
    nested = dlc.vmap(dlc.vmap(lambda x: dlc.rand(2)), 1, 1)
    got = _after(3, lambda: nested(dlc.zeros(2, 3)))
    assert len(np.unique(got)) == 12

    def steps(x):
        return dlc.scan(lambda c, _: (c, dlc.rand(2)), x, length=4)[1]

    got = _after(3, lambda: dlc.jit(dlc.vmap(steps))(dlc.zeros(5)))
    assert got.shape == (5, 4, 2) and len(np.unique(got)) == 40
    got = _after(3, lambda: dlc.scan(lambda c, _: (c, dlc.vmap(lambda x: dlc.rand(2))(c)), dlc.zeros(5), length=4)[1])
    assert got.shape == (4, 5, 2) and len(np.unique(got)) == 40
    got = _after(3, lambda: dlc.vmap(dlc.checkpoint(lambda x: x * dlc.rand(2).sum()))(dlc.ones(6)))
    assert len(np.unique(got)) == 6


def test_dropout_under_vmap_and_its_gradient():
    from dlc.nn import functional as F

    x = dlc.ones(6, 64)
    dlc.manual_seed(0)
    value, grad = dlc.vmap(dlc.value_and_grad(lambda x: F.dropout(x, 0.5).sum()))(x)
    assert len(np.unique(grad.numpy(), axis=0)) == 6
    np.testing.assert_allclose(value.numpy(), grad.numpy().sum(1))  # one mask for both


def test_keys_and_generators_made_inside_say_what_an_example_draws():
    key = dlc.random.key(7)
    same = dlc.vmap(lambda x: dlc.random.uniform((3,), key=key))(dlc.zeros(2)).numpy()
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[0], dlc.random.uniform((3,), key=key).numpy())
    keys = dlc.random.split(key, 4)
    each = dlc.vmap(lambda k: dlc.random.uniform((3,), key=k))(keys).numpy()
    np.testing.assert_array_equal(each, [dlc.random.uniform((3,), key=k).numpy() for k in dlc.unstack(keys)])
    own = dlc.vmap(lambda x: dlc.random.uniform((3,), generator=dlc.Generator(5)))(dlc.zeros(2)).numpy()
    np.testing.assert_array_equal(own[0], own[1])
