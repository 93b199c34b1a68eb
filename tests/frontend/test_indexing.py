"""Indexing against NumPy: fixed odd cases, random indexes (hypothesis), assignment, errors, and what a trace may do."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dlc
from dlc.base.errors import DTypeError, IndexOutOfRange, ShapeError, TraceError
from dlc.frontend import methods
from dlc.frontend.array import gathering
from dlc.frontend.core import eager
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes

methods.install()
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
S = np.s_


def same(got, want):
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want)


ODD = [
    S[0], S[-1], S[0, -1, 2], S[...], S[()], S[None], S[..., None], S[None, 0, ..., None, 1:], S[::-1, ::-2, ::2],
    S[5:], S[:, 2:1], S[-100:100], S[:, -2:], S[1:0:-1], S[[0, 1, 1]], S[:, [2, 0]], S[[0, 1], :, [1, 2]],
    S[0, :, [1, 2]], S[:, 0, [1, 2]], S[0, [1, 2]], S[[[0], [1]], [0, 2]], S[[0, 1], None, [0, 1]], S[[]],
    S[:, [], 1], S[[0], [1], [2]], S[[-1, 0], [-3, 2]], S[0, None, [1, 2]], S[[0, 1], ..., [0, 1]],
    S[..., [0, 1], [0, 3]], S[True], S[False], S[None, True, 1], S[np.array(1)], S[np.int8(1), np.uint8(2)],
    S[np.array([0, 1], np.uint8)], S[[True, False]], S[:, [True, False, True]], S[X > 3],
    S[:, X[0] > 3], S[X[..., 0] > 3], S[X[..., 0] > 3, 1:3], S[[True, False], :, [0, 1, 2]], S[X > 1e9],
]  # fmt: skip


@pytest.mark.parametrize("index", ODD, ids=str)
def test_read_like_numpy(index):
    same(Tensor(X)[index], X[index])


@pytest.mark.parametrize("index", ODD, ids=str)
def test_write_like_numpy(index):
    part = X[index]
    for value in (np.float32(-1), -np.arange(part.size, dtype=np.float32).reshape(part.shape)):
        want = X.copy()
        want[index] = value
        t = Tensor(X)
        t[index] = Tensor(value)
        same(t, want)


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def reads(draw):
    shape = draw(shapes)
    arrays = st.nothing()
    if shape and all(shape):
        arrays = hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3, min_side=0))
    index = draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True) | arrays | hnp.arrays(bool, shape))
    return np.arange(np.prod(shape, dtype=int)).reshape(shape), index


@st.composite
def mixed_reads(draw):
    """Integers, slices, None, arrays and masks in one index."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=3))
    common = draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    parts = []
    for d in shape:
        kind = draw(st.sampled_from(["int", "slice", "array", "column", "none", "stop"]))
        if kind == "stop":
            break
        if kind == "none":
            parts.append(None)
            kind = "slice"
        if kind == "int":
            parts.append(draw(st.integers(-d, d - 1)))
        elif kind == "slice":
            parts.append(draw(st.slices(d)))
        else:
            array = draw(hnp.arrays(np.int64, common, elements=st.integers(-d, d - 1)))
            parts.append(array[..., :1] if kind == "column" and array.ndim else array)
    if draw(st.booleans()):
        used = sum(p is not None for p in parts)
        if used < len(shape) or draw(st.booleans()):
            parts.insert(draw(st.integers(0, len(parts))), Ellipsis)
    return np.arange(np.prod(shape)).reshape(shape), tuple(parts)


def _numpy_or_skip(x, index):
    try:
        return x[index]
    except IndexError:  # an ellipsis moved an index to a shorter axis
        return None


@settings(max_examples=150, deadline=None)
@given(reads())
def test_random_reads(case):
    x, index = case
    same(Tensor(x)[index], x[index])


@settings(max_examples=200, deadline=None)
@given(mixed_reads(), st.booleans())
def test_random_mixed(case, as_tensors):
    x, index = case
    want = _numpy_or_skip(x, index)
    ours = index
    if as_tensors:
        ours = tuple(Tensor(i) if isinstance(i, np.ndarray) else i for i in index)
    if want is None:
        with pytest.raises(IndexOutOfRange):
            Tensor(x)[ours]
        return
    same(Tensor(x)[ours], want)
    value = -np.arange(want.size).reshape(want.shape) - 1
    t, copy = Tensor(x), x.copy()
    # of equal positions any may win: give those the same value
    places = np.arange(x.size).reshape(x.shape)[index]
    value = -places - 1 if places.size else value
    t[ours] = Tensor(value)
    copy[index] = value
    same(t, copy)
    added = x.copy()
    np.add.at(added, index, 1)
    same(Tensor(x).at[ours].add(1), added)


def test_update_methods():
    t, index = Tensor(X), S[:, [0, 0, 2]]
    for name, ufunc in (("add", np.add), ("mul", np.multiply), ("max", np.maximum), ("min", np.minimum)):
        want = X.copy()
        ufunc.at(want, index, np.float32(7))
        same(getattr(t.at[index], name)(7), want)
    same(t.at[0].get(), X[0])
    same(t, X)
    want = X.copy()
    want[:, 1:3] *= 2
    same(t.at[:, 1:3].multiply(2), want)


def test_in_place_operators():
    t, want = Tensor(X), X.copy()
    t[0] += 5
    t[:, [0, 2]] *= 2
    t[t > 20] -= 100
    want[0] += 5
    want[:, [0, 2]] *= 2
    want[want > 20] -= 100
    same(t, want)


def test_assignment_casts_and_broadcasts():
    t = Tensor([1, 2, 3])
    t[0] = 2.7
    assert t.numpy().tolist() == [2, 2, 3] and t.dtype is dtypes.int64
    t[1:] = Tensor([[9.0, 8.0]])
    assert t.numpy().tolist() == [2, 9, 8]
    with pytest.raises(ShapeError, match=r"a value of shape \(2,\) does not fit the indexed part of shape \(3,\)"):
        t[:] = [1, 2]
    with pytest.raises(DTypeError, match="does not fit uint8"):
        Tensor([1], dtypes.uint8)[0] = 300


def test_mask_assignment_needs_no_values():
    t, want, mask = Tensor(X), X.copy(), X[:, :, 0] > 3
    t[Tensor(mask)] = Tensor([1.0, 2.0, 3.0, 4.0])
    want[mask] = [1, 2, 3, 4]
    same(t, want)
    rows = np.array([True, False, True])
    t[:, Tensor(rows)] = 0
    want[:, rows] = 0
    same(t, want)
    same(t.at[want == 0].add(1), want + (want == 0))
    t[want == 0] = np.arange((want == 0).sum())  # one value for each element of the mask
    want[want == 0] = np.arange((want == 0).sum())
    same(t, want)


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (S[2], r": 2 is outside axis 0 of extent 2 \(shape \(2, 3, 4\)\)"),
        (S[:, -4], "-4 is outside axis 1"),
        (S[0, [0, 3]], "3 is outside axis 1"),
        (S[0, np.array([-4])], "-4 is outside axis 1"),
        (S[Tensor([5])], "5 is outside axis 0"),
        (S[0, 0, 0, 0], "4 indexes for a tensor of 3 dimensions"),
        (S[..., 0, ...], "more than once"),
        (S[::0], "step of a slice is 0"),
        (S[[0, 1], [0, 1, 2]], "do not broadcast together"),
        (S[[True, False, True]], r"a mask of shape \(3,\) does not fit axis 0"),
    ],
)
def test_out_of_range(index, text):
    for act in (lambda t: t[index], lambda t: t.at[index].set(0)):
        with pytest.raises(IndexOutOfRange, match=text) as info:
            act(Tensor(X))
        assert "test_indexing.py:" in str(info.value)


def test_bad_kinds_of_index():
    for bad in (1.5, "a", np.array([1.5]), Tensor([1.5])):
        with pytest.raises(DTypeError, match="index"):
            Tensor(X)[bad]
    with pytest.raises(IndexOutOfRange, match="0 is outside axis 0 of extent 0"):
        Tensor(np.zeros((0, 2)))[0]


def test_negative_and_wide_dtypes_of_index():
    long = Tensor(np.arange(1000))
    for dtype in (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.uint8, dtypes.uint64):
        index = Tensor([0, 100], dtype)
        assert long[index].numpy().tolist() == [0, 100]
    assert long[Tensor([-1], dtypes.int8)].item() == 999


def test_take():
    for axis in (None, 0, 1, -1):
        for index in ([0, 1], [[1, 0], [0, -1]], 1, []):
            same(gathering.take(Tensor(X), index, axis), np.take(X, np.array(index, int), axis))
    order = np.argsort(-X, 1)
    same(gathering.take_along_axis(Tensor(X), Tensor(order), axis=1), np.take_along_axis(X, order, 1))
    same(gathering.take_along_axis(Tensor(X), order[:1, :1], axis=1), np.take_along_axis(X, order[:1, :1], 1))
    with pytest.raises(IndexOutOfRange):
        gathering.take(Tensor(X), 3, 1)
    with pytest.raises(IndexOutOfRange):
        gathering.take_along_axis(Tensor(X), order + 9, axis=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_torch_gather_and_scatter(axis):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(axis)
    index = rng.integers(0, X.shape[axis], (2, 2, 3))
    source = rng.integers(1, 9, (2, 3, 4)).astype(np.float32)
    tx, ti, ts = torch.tensor(X), torch.tensor(index), torch.tensor(source)
    same(Tensor(X).gather(axis, Tensor(index)), torch.gather(tx, axis, ti).numpy())
    same(Tensor(X).scatter_add(axis, Tensor(index), Tensor(source)), tx.scatter_add(axis, ti, ts).numpy())
    same(Tensor(X).scatter(axis, Tensor(index), 5.0), tx.scatter(axis, ti, 5.0).numpy())
    for reduce in ("prod", "amax", "amin", "sum"):
        want = tx.scatter_reduce(axis, ti, ts, reduce).numpy()
        same(Tensor(X).scatter(axis, Tensor(index), Tensor(source), reduce=reduce), want)
    k = rng.integers(0, X.shape[axis], 5)
    rows = np.take(source, k % 2, axis)
    same(Tensor(X).index_add(axis, Tensor(k), Tensor(rows), alpha=2),
         tx.index_add(axis, torch.tensor(k), torch.tensor(rows), alpha=2).numpy())  # fmt: skip
    same(Tensor(X).index_select(axis, k), tx.index_select(axis, torch.tensor(k)).numpy())
    same(Tensor(X).index_fill(axis, k, 3.0), tx.index_fill(axis, torch.tensor(k), 3.0).numpy())
    same(Tensor(X).narrow(axis, 1, 1), tx.narrow(axis, 1, 1).numpy())
    with pytest.raises(ShapeError):
        Tensor(X).gather(axis, Tensor(np.zeros((3, 4, 5), int)))


def test_masks():
    mask = X[0] > 5
    same(Tensor(X).masked_fill(Tensor(mask), -1), np.where(mask, -1, X).astype(np.float32))
    same(Tensor(X).masked_select(Tensor(mask)), X[np.broadcast_to(mask, X.shape)])
    with pytest.raises(ShapeError):
        Tensor(X).masked_fill(Tensor(np.zeros(5, bool)), 0)


def test_gradients_flow_through_assignment():
    x, v = Tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True), Tensor([5.0], requires_grad=True)
    y = x * 2
    y[1:3] = v
    y[[0, 0]] *= 3
    (y * Tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert x.grad.numpy().tolist() == [6, 0, 0, 2000] and v.grad.numpy().tolist() == [110]


def test_gradients_of_reads_add_up():
    x = Tensor(X, requires_grad=True)
    (x[[0, 0, 1]][:, 1::-1, None, [0, 3]].sum() + x[x > 20].sum()).backward()
    want = np.zeros_like(X)
    np.add.at(want, [0, 0, 1], np.pad(np.ones((3, 2, 4)), ((0, 0), (0, 1), (0, 0))) * [1, 0, 0, 1])
    same(x.grad, want + (X > 20))


# -- inside a trace


def _traced(f, *arrays):
    return dlc.jit(f)(*(Tensor(a) for a in arrays))


def test_traced_indexes_wrap_and_clamp():
    got = _traced(lambda x, i: x[i], X, np.array([0, -1, 99, -99]))
    same(got, X[[0, 1, 1, 0]])
    got = _traced(lambda x, i, j: x[i, :, j], X, np.array([0, 9]), np.array([-1, 2]))
    same(got, X[[0, 1], :, [-1, 2]])
    got = _traced(lambda x, i: x.at[i, 1].set(0), X, np.array(-1))
    want = X.copy()
    want[-1, 1] = 0
    same(got, want)


def test_traced_masks():
    def assign(x):
        x = x * 1
        x[x > 3] = 0
        return x

    same(_traced(assign, X), np.where(X > 3, 0, X))
    with pytest.raises(TraceError, match=r"(?s)dlc.where.*test_indexing.py:"):
        _traced(lambda x: x[x > 3], X)
    own = np.array([True, False])
    with pytest.raises(TraceError, match="may change between calls"):
        _traced(lambda x: x[own], X)
    same(_traced(lambda x: x[[True, False]], X), X[:1])


def test_arrays_of_the_caller_are_read_again():
    index = np.array([0, 1])
    f = dlc.jit(lambda x: x[:, index])
    same(f(Tensor(X)), X[:, index])
    index[:] = [2, -1]
    same(f(Tensor(X)), X[:, index])
    with pytest.raises(IndexOutOfRange):
        dlc.jit(lambda x: x[5])(Tensor(X))


# -- outside a trace, numbers in an index are inputs


@pytest.fixture
def compiled(monkeypatch):
    """The graphs that are compiled."""
    from dlc.runtime import programs

    graphs = []
    original = programs.compile_graph
    monkeypatch.setattr(eager, "_executables", OrderedDict())  # nothing that an earlier test compiled
    monkeypatch.setattr(programs, "compile_graph", lambda g, *a, **k: graphs.append(g) or original(g, *a, **k))
    return graphs


@pytest.mark.parametrize("index", [
    lambda i: i, lambda i: -i - 1, lambda i: (slice(None), i), lambda i: (i, Ellipsis, i),
    lambda i: (i, None, slice(1, 3), i), lambda i: (slice(None, None, -2), i),
])  # fmt: skip
def test_one_program_for_all_numbers(compiled, index):
    array = np.arange(7 * 6 * 5, dtype=np.float32).reshape(7, 6, 5) * 1.5
    x = Tensor(array)
    for i in range(5):
        np.testing.assert_array_equal((x[index(i)] + 0.25).numpy(), array[index(i)] + 0.25)
    assert len(compiled) == 1
    for i in range(5):
        y, want = Tensor(array), array.copy()
        y[index(i)] = 3.0
        want[index(i)] = 3.0
        np.testing.assert_array_equal(y.numpy(), want)
    assert len(compiled) == 2


def test_numbers_in_an_index_still_raise_and_differentiate():
    x = Tensor(np.arange(12, dtype=np.float32).reshape(4, 3))
    with pytest.raises(IndexOutOfRange, match=r"4 is outside axis 0 of extent 4(?s:.*)test_indexing.py"):
        x[4]
    with pytest.raises(IndexOutOfRange, match="-4 is outside axis 1 of extent 3"):
        x[1, -4]
    grad = dlc.grad(lambda x: (x[2] * x[-1, 1]).sum())(x).numpy()
    want = np.zeros((4, 3))
    want[2] = 10
    want[3, 1] = 6 + 7 + 8
    np.testing.assert_array_equal(grad, want)
    ones = dlc.ones(1, 3)
    assert ones[0].shape == (3,) and ones[-1, 2].item() == 1


def test_in_a_trace_numbers_are_part_of_the_program():
    graph = dlc.jit(lambda x: x[2]).graph(Tensor(np.zeros((4, 3), np.float32)))
    assert [n.op for n in graph.nodes() if n.op in ("slice", "gather")] == ["slice"]
