"""Tensor as a value in a cell: laziness, looking at values, assignment, promotion, eager gradients."""

import copy
import gc
import pickle
import sys
import weakref

import numpy as np
import pytest

import dlc
from dlc.frontend.core import eager
from dlc.frontend.core.operands import as_node, promote
from dlc.frontend.core.tensor import wrap


def array(*shape, dtype=np.float32):
    return np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1, "int64"), (1.5, "float32"), (True, "bool"), ([1, 2], "int64"), ([1.0, 2], "float32"), ([], "float32"),
        ([[True, False]], "bool"), (np.float64(3), "float32"), (np.float16(3), "float16"), (np.zeros(2), "float64"),
        (np.arange(3, dtype=np.uint8), "uint8"), ([np.zeros(2), np.ones(2)], "float64"),
    ],
)  # fmt: skip
def test_dtype_of_data(data, dtype):
    t = dlc.Tensor(data)
    assert t.dtype.name == dtype
    np.testing.assert_array_equal(t.numpy(), np.asarray(data, t.dtype.np))


def test_data_is_copied():
    a = array(3)
    t = dlc.Tensor(a)
    a[:] = 0
    assert t.tolist() == [1, 2, 3]


def test_big_endian_and_strided_arrays():
    t = dlc.Tensor(np.arange(6, dtype=">f4").reshape(2, 3).T[::-1])
    np.testing.assert_array_equal(t.numpy(), np.arange(6, dtype="f4").reshape(2, 3).T[::-1])


def test_list_of_tensors():
    t = dlc.Tensor([dlc.Tensor([1.0, 2.0]), [3.0, 4.0]])
    assert t.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("operands", "dtype"),
    [
        (("int32", 2.5), "float32"), (("float16", 2.5), "float16"), (("bfloat16", 2), "bfloat16"),
        (("uint8", 3), "uint8"),
        (("bool", 3), "int64"), (("bool", 1.5), "float32"), (("int8", True), "int8"), (("float64", 1), "float64"),
        (("int64", "float16"), "float16"), (("float16", "bfloat16"), "float32"), ((2, 3.0), "float32"),
        ((True, 2), "int64"),
        (("uint8", "int8"), "int16"),
    ],
)  # fmt: skip
def test_promotion(operands, dtype):
    values = [dlc.Tensor(np.ones(2), getattr(dlc, o)) if isinstance(o, str) else o for o in operands]
    assert {n.dtype.name for n in promote(*values)} == {dtype}


def test_a_number_that_does_not_fit():
    with pytest.raises(dlc.DTypeError, match="300 does not fit uint8"):
        promote(dlc.Tensor(np.ones(2, np.uint8)), 300)


def test_operations_wait_until_somebody_looks():
    t = dlc.Tensor([1.0, 2.0])
    y = t + 1
    assert y._node.data is None
    assert y.tolist() == [2, 3]
    assert y._node.op == "param"
    assert y._node.data is not None


def test_realize_computes_siblings_together(monkeypatch):
    runs = []
    original = eager.compiled
    monkeypatch.setattr(eager, "compiled", lambda *a: runs.append(1) or original(*a))
    t = dlc.Tensor([1.0, 2.0])
    y = t * 2
    z, w = y + 1, y - 1
    dlc.realize(z, w)
    assert len(runs) == 1
    assert (z.tolist(), w.tolist()) == ([3, 5], [1, 3])
    assert len(runs) == 1


def test_eager_loops_do_not_recompile():
    from dlc.runtime import programs

    count = []
    original = programs.compile_graph
    try:
        programs.compile_graph = lambda *a, **k: count.append(1) or original(*a, **k)
        x = dlc.Tensor([1.0])
        for _ in range(5):
            x = x * 3.25 + 0.125
            x.realize()
    finally:
        programs.compile_graph = original
    assert len(count) == 1


def test_very_long_chains_are_cut():
    x = dlc.Tensor([0.0])
    a = b = x
    for _ in range(3000):
        a, b = a + 1, b + 2
    assert len(eager.topological([a._node], stop=eager._known)) < 2500
    assert (a.item(), b.item()) == (3000, 6000)


def test_numpy_is_read_only_and_never_changes():
    t = dlc.Tensor([1.0, 2.0])
    before = t.numpy()
    with pytest.raises(ValueError, match="read-only"):
        before[0] = 5
    t.assign([7.0, 8.0])
    t.realize()
    assert before.tolist() == [1, 2]
    assert t.tolist() == [7, 8]


def test_assign_rebinds_the_cell_only():
    a = dlc.Tensor([1.0, 2.0])
    pending = a * 10
    alias = dlc.Tensor(a)
    a.assign(a + 1)
    assert a.tolist() == [2, 3]
    assert pending.tolist() == [10, 20]
    assert alias.tolist() == [1, 2]


@pytest.mark.parametrize(
    "value", [np.zeros(3, np.float32), dlc.Tensor(np.zeros((2, 2), np.float32)), dlc.Tensor([1.0])]
)
def test_assign_checks_the_shape(value):
    with pytest.raises(dlc.ShapeError, match=r"assign: .*shape.*\n.*operands.*\n  at .*test_tensor.py"):
        dlc.Tensor([1.0, 2.0]).assign(value)


def test_assign_checks_the_dtype():
    with pytest.raises(dlc.DTypeError, match="float64 value for a float32 tensor"):
        dlc.Tensor([1.0, 2.0]).assign(dlc.Tensor(np.zeros(2)))


def test_scalars():
    t = dlc.Tensor([[3]])
    assert (t.item(), int(t), float(t), bool(t)) == (3, 3, 3.0, True)
    assert [10, 20, 30, 40][dlc.Tensor(2)] == 30
    with pytest.raises(dlc.ShapeError, match=r"one element, this one has shape \(2,\)"):
        bool(dlc.Tensor([1, 2]))
    with pytest.raises(dlc.DTypeError, match="needs an integer scalar"):
        [1, 2][dlc.Tensor(1.0)]


def test_printing():
    assert repr(dlc.Tensor([1.0, 2.0])) == "Tensor([1., 2.], dtype=float32)"
    assert f"{dlc.Tensor(0.125):.2f}" == "0.12"
    assert "shape=(0, 3)" in repr(dlc.Tensor(np.zeros((0, 3), np.float32)))


def test_equality_is_elementwise_and_tensors_are_hashable():
    a, b = dlc.Tensor([1.0]), dlc.Tensor([1.0])
    assert len({a, b}) == 2
    assert bool(a == b)


def test_pickle_and_deepcopy():
    t = dlc.Tensor([1.0, 2.0], requires_grad=True)
    for other in (pickle.loads(pickle.dumps(t)), copy.deepcopy(t)):
        assert other is not t
        assert other.tolist() == [1, 2]
        assert other.requires_grad
        other.assign([5.0, 6.0])
        assert t.tolist() == [1, 2]


def test_memory_is_freed():
    t = dlc.Tensor(np.ones(1000, np.float32)).realize()
    buffer = weakref.ref(t._node.data)
    del t
    gc.collect()
    assert buffer() is None


# --- gradients ---


def test_backward_accumulates():
    w = dlc.Tensor([2.0, 3.0], requires_grad=True)
    (w * w).sum().backward()
    assert w.grad.tolist() == [4, 6]
    (w * 10).sum().backward()
    assert w.grad.tolist() == [14, 16]
    w.grad = None
    assert w.grad is None


def test_backward_after_printing_the_loss():
    w = dlc.Tensor([2.0, 3.0], requires_grad=True)
    loss = (w * w).sum()
    assert loss.item() == 13
    loss.backward()
    assert w.grad.tolist() == [4, 6]
    assert loss.item() == 13


def test_backward_twice_is_an_error_unless_retained():
    w = dlc.Tensor([2.0], requires_grad=True)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert w.grad.tolist() == [8]
    with pytest.raises(dlc.TraceError, match="already"):
        loss.backward()


def test_backward_through_an_assigned_parameter():
    w = dlc.Tensor([1.0], requires_grad=True)
    for _ in range(3):
        w.grad = None
        (w * w).sum().backward()
        w.assign(w - 0.25 * w.grad)
    assert w.tolist() == [0.125]
    assert w.requires_grad


def test_stopped_gradients():
    w = dlc.Tensor([2.0], requires_grad=True)
    (w.detach() * w).sum().backward()
    assert w.grad.tolist() == [2]
    with dlc.no_grad():
        y = w * w
    assert not y.requires_grad
    with pytest.raises(dlc.TraceError, match="no_grad"):
        y.sum().backward()


def test_create_graph_gives_second_derivatives():
    w = dlc.Tensor([3.0], requires_grad=True)
    (w * w * w).sum().backward(create_graph=True)
    g = w.grad
    w.grad = None
    g.sum().backward()
    assert w.grad.tolist() == [18]


def test_a_long_history_is_differentiated_without_recursion():
    w = dlc.Tensor([1.0], requires_grad=True)
    y = w
    for _ in range(sys.getrecursionlimit() + 500):
        y = y * 1.0
    y.sum().backward()
    assert w.grad.tolist() == [1]


def test_losses_kept_in_a_list_keep_no_parameters_alive():
    w = dlc.Tensor([1.0], requires_grad=True)
    losses, buffers = [], []
    for _ in range(3):
        w.grad = None
        loss = (w * w).sum()
        loss.backward()
        w.assign(w - 0.1 * w.grad)
        loss.item()
        losses.append(loss)
        w.realize()
        buffers.append(weakref.ref(w._node.data))
    gc.collect()
    assert [b() is None for b in buffers] == [True, True, False]


def test_integers_have_no_gradient():
    with pytest.raises(dlc.DTypeError, match="int64"):
        dlc.Tensor([1, 2], requires_grad=True)


def test_gradient_argument():
    w = dlc.Tensor([1.0, 2.0], requires_grad=True)
    y = w * 3
    with pytest.raises(dlc.ShapeError, match=r"needs a scalar or a gradient; this tensor has shape \(2,\)"):
        y.backward()
    y.backward([10.0, 100.0])
    assert w.grad.tolist() == [30, 300]


def test_wrap_and_as_node_are_inverse():
    t = dlc.Tensor([1.0])
    assert as_node(wrap(t.node)) is t.node
