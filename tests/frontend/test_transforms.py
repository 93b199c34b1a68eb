"""grad, vjp, jvp, vmap, scan, checkpoint: values, composition, trees, and errors."""

import numpy as np
import pytest

import dlc


def cube(x):
    return (x * x * x).sum()


def test_a_checkpoint_that_closes_over_its_argument():
    x = dlc.asarray([2.0, 3.0])
    for f in (
        lambda x: dlc.checkpoint(lambda y: y * x)(x).sum(),
        lambda x: dlc.checkpoint(lambda y, z: y * z)(x, x).sum(),
    ):
        assert dlc.grad(f)(x).tolist() == dlc.jit(dlc.grad(f))(x).tolist() == [4, 6]  # it was twice that


def test_backward_inside_a_function_that_is_differentiated():
    weight = dlc.Tensor([1.0, 1.0], requires_grad=True)

    def f(x):
        loss = (x * weight).sum()
        loss.backward()  # spends the history that grad needs: the gradient was zero
        return loss

    for run in (dlc.grad(f), lambda x: dlc.vjp(f, x), lambda x: dlc.jvp(f, (x,), (x,))):
        with pytest.raises(dlc.TraceError, match=r"backward\(\) inside a function that is differentiated"):
            run(dlc.ones(2))


def test_a_value_that_is_looked_at_is_differentiated_all_the_same():
    x = dlc.asarray([1.0, 2.0])

    def realized(x):
        y = (x * x).realize()
        return (y * x).sum()

    def item(x):
        y = (x * x * x).sum()
        assert y.item() == 9.0
        return y

    def many(x):  # more operations than may be pending
        for _ in range(2500):
            x = x * 1.0
        return (x**3).sum()

    for f in (realized, item, many):
        assert dlc.grad(f)(x).tolist() == [3, 12], f.__name__
        assert dlc.jvp(f, (x,), (dlc.ones(2),))[1].item() == 15, f.__name__
        assert dlc.vjp(f, x)[1](dlc.asarray(2.0))[0].tolist() == [6, 24], f.__name__
    assert dlc.grad(lambda x: dlc.grad(item)(x).sum())(x).tolist() == [6, 12]


def test_grad_and_its_own_gradient():
    x = dlc.Tensor([1.0, 2.0])
    assert dlc.grad(cube)(x).tolist() == [3, 12]
    assert dlc.grad(lambda x: dlc.grad(cube)(x).sum())(x).tolist() == [6, 12]


def test_value_and_grad_argnums_and_aux():
    f = dlc.value_and_grad(lambda a, b: ((a * b).sum(), {"a": a + 1}), argnums=(1, 0), has_aux=True)
    (value, aux), (db, da) = f(dlc.Tensor([2.0]), dlc.Tensor([5.0]))
    assert (value.item(), aux["a"].tolist(), db.tolist(), da.tolist()) == (10, [3], [2], [5])


def test_the_same_tensor_twice_is_two_arguments():
    x = dlc.Tensor([3.0])
    da, db = dlc.grad(lambda a, b: (a * a * b).sum(), argnums=(0, 1))(x, x)
    assert (da.tolist(), db.tolist()) == ([18], [9])


def test_gradients_of_trees():
    params = {"w": dlc.Tensor([2.0]), "rest": [dlc.Tensor([3.0]), None]}
    grads = dlc.grad(lambda p: (p["w"] * p["rest"][0]).sum())(params)
    assert grads["w"].tolist() == [3]
    assert grads["rest"][0].tolist() == [2]
    assert grads["rest"][1] is None


def test_closed_over_values_are_constants():
    w = dlc.Tensor([4.0])
    assert dlc.grad(lambda x: (x * w).sum())(dlc.Tensor([1.0])).tolist() == [4]


@pytest.mark.parametrize(
    ("fn", "args", "message"),
    [
        (lambda x: x, (dlc.Tensor([1.0]),), r"must return a scalar, not shape \(1,\)"),
        (lambda x: 3.0, (dlc.Tensor([1.0]),), "not float"),
        (lambda x: x.sum(), (dlc.Tensor([1]),), "is int64; only float"),
        (lambda x: x, ("text",), "is a str"),
        (lambda: 1, (), "argnums has 0"),
    ],
)
def test_grad_errors_name_the_line(fn, args, message):
    with pytest.raises(dlc.DlcError, match=message) as error:
        dlc.grad(fn)(*args)
    assert "test_transforms.py" in str(error.value)


def test_vjp_of_a_tree():
    out, pullback = dlc.vjp(lambda x: {"a": x * 2, "b": x * x}, dlc.Tensor([3.0]))
    assert (out["a"].tolist(), out["b"].tolist()) == ([6], [9])
    (dx,) = pullback({"a": dlc.Tensor([1.0]), "b": dlc.Tensor([10.0])})
    assert dx.tolist() == [62]
    with pytest.raises(dlc.ShapeError, match="cotangents with the tree"):
        pullback([1.0])


def test_jvp_and_forward_over_reverse():
    x, v = dlc.Tensor([1.0, 2.0]), dlc.Tensor([1.0, 0.0])
    out, tangent = dlc.jvp(cube, (x,), (v,))
    assert (out.item(), tangent.item()) == (9, 3)
    _, hv = dlc.jvp(dlc.grad(cube), (x,), (v,))
    assert hv.tolist() == [6, 0]
    _, second = dlc.jvp(lambda y: dlc.jvp(cube, (y,), (v,))[1], (x,), (v,))
    assert second.item() == 6


def test_vmap():
    x = dlc.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    w = dlc.Tensor([1.0, 10.0, 100.0])
    assert dlc.vmap(lambda r: (r * w).sum())(x).tolist() == [210, 543]
    assert dlc.vmap(lambda r, s: r + s, in_axes=(0, None))(x, w).shape == (2, 3)
    assert dlc.vmap(lambda c: c * 2, in_axes=1, out_axes=1)(x).tolist() == (x * 2).tolist()
    out = dlc.vmap(lambda d: {"y": d["a"] * 2, "n": w}, in_axes=({"a": 0},), out_axes={"y": 0, "n": None})({"a": x})
    assert (out["y"].shape, out["n"].shape) == ((2, 3), (3,))


def test_vmap_of_vmap_and_of_grad():
    x = dlc.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert dlc.vmap(dlc.vmap(lambda s: s * s))(x).tolist() == (x * x).tolist()
    assert dlc.vmap(dlc.grad(cube))(x).tolist() == (3 * x * x).tolist()
    assert dlc.grad(lambda x: dlc.vmap(cube)(x).sum())(x).tolist() == (3 * x * x).tolist()


def test_jacobian_and_hessian():
    x = dlc.Tensor([1.0, 2.0, 3.0])
    eye = dlc.Tensor(np.eye(3, dtype=np.float32))
    jacobian = dlc.vmap(lambda v: dlc.jvp(lambda y: y * y * y.sum(), (x,), (v,))[1], out_axes=1)(eye)
    expected = np.diag(2 * np.array([1, 2, 3]) * 6) + np.outer([1, 4, 9], np.ones(3))
    np.testing.assert_allclose(jacobian.numpy(), expected)
    hessian = dlc.vmap(lambda v: dlc.jvp(dlc.grad(cube), (x,), (v,))[1])(eye)
    np.testing.assert_allclose(hessian.numpy(), np.diag([6, 12, 18]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dlc.vmap(lambda a, b: a)(x, dlc.Tensor([1.0])), "has 1 examples, .* has 2"),
        (lambda x: dlc.vmap(lambda a: a)(dlc.Tensor(1.0)), "no axis 0 to map"),
        (lambda x: dlc.vmap(lambda a: a, in_axes=None)(x), "no argument"),
        (lambda x: dlc.vmap(lambda a: a, out_axes=None)(x), "different for each example"),
        (lambda x: dlc.vmap(lambda a: a, in_axes=(0, 0))(x), "2 entries for 1 arguments"),
    ],
)
def test_vmap_errors(call, message):
    with pytest.raises(dlc.ShapeError, match=message):
        call(dlc.Tensor([[1.0], [2.0]]))


def test_vmap_refuses_a_different_value_for_each_example_in_a_cell():
    cell = dlc.Tensor([0.0])

    def f(x):
        cell.assign(x)
        return x

    with pytest.raises(dlc.TraceError, match="different for each example"):
        dlc.vmap(f)(dlc.Tensor([[1.0], [2.0]]))
    assert cell.tolist() == [0]


def test_scan():
    def step(carry, x):
        return carry + x, carry * x

    last, ys = dlc.scan(step, 0.0, dlc.Tensor([1.0, 2.0, 3.0]))
    assert (last.item(), ys.tolist()) == (6, [0, 2, 9])
    last, ys = dlc.scan(step, 0.0, dlc.Tensor([1.0, 2.0, 3.0]), reverse=True)
    assert (last.item(), ys.tolist()) == (6, [5, 6, 0])
    last, ys = dlc.scan(lambda c, _: ({"n": c["n"] * 2}, None), {"n": dlc.Tensor(1)}, length=10)
    assert (last["n"].item(), ys) == (1024, None)


def test_scan_closes_over_tensors_and_differentiates():
    w = dlc.Tensor([0.5, 2.0])
    xs = dlc.Tensor([[1.0, 1.0], [2.0, 2.0]])

    def loss(w):
        last, _ = dlc.scan(lambda c, x: (c * w + x, None), dlc.Tensor([0.0, 0.0]), xs)
        return last.sum()

    assert dlc.grad(loss)(w).tolist() == [1, 1]
    w.requires_grad = True
    loss(w).backward()
    assert w.grad.tolist() == [1, 1]


def test_scan_carries_assigned_cells():
    state = dlc.Tensor(1.0)

    def step(carry, x):
        state.assign(state * 2)
        return carry + state * x, state

    last, ys = dlc.scan(step, 0.0, dlc.Tensor([1.0, 10.0]))
    assert (last.item(), ys.tolist(), state.item()) == (42, [2, 4], 4)


def test_random_numbers_differ_from_step_to_step():
    dlc.manual_seed(3)
    _, ys = dlc.scan(lambda c, _: (c, dlc.rand(2)), 0.0, length=3)
    assert len({tuple(row) for row in ys.tolist()}) == 3


@pytest.mark.parametrize(
    ("fn", "init", "xs", "message"),
    [
        (lambda c, x: (c, x, x), 0.0, [1.0], "must return"),
        (lambda c, x: ((c, c), x), 0.0, [1.0], "the carry has the tree"),
        (lambda c, x: (dlc.stack([c, c]), x), 0.0, [1.0], r"carry is float32 \(\)"),
        (lambda c, x: (c, x), 0.0, 1.0, "needs a first axis"),
        (lambda c, x: (c, x), 0.0, None, "give xs or length"),
    ],
)
def test_scan_errors(fn, init, xs, message):
    xs = dlc.Tensor(xs) if xs is not None else None
    with pytest.raises(dlc.ShapeError, match=message) as error:
        dlc.scan(fn, init, xs)
    assert "test_transforms.py" in str(error.value)


def test_checkpoint():
    w = dlc.Tensor([3.0], requires_grad=True)
    counter = dlc.Tensor(0)

    @dlc.checkpoint
    def block(x, power=2):
        counter.assign(counter + 1)
        return dlc.exp(x * w) * power

    x = dlc.Tensor([0.5])
    block(x).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), [np.exp(1.5)], rtol=1e-6)
    assert counter.item() == 1
    np.testing.assert_allclose(dlc.grad(lambda x: block(x).sum())(x).numpy(), [6 * np.exp(1.5)], rtol=1e-6)


def test_everything_under_jit():
    x = dlc.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))

    def loss(w, x):
        step = dlc.checkpoint(lambda c, r: (dlc.tanh(c * w + r), c.sum()))
        last, ys = dlc.scan(step, dlc.zeros(3), x)
        return (last * last).sum() + ys.sum()

    w = dlc.Tensor([0.1, 0.2, 0.3])
    plain = dlc.grad(loss)(w, x).numpy()
    np.testing.assert_allclose(dlc.jit(dlc.grad(loss))(w, x).numpy(), plain, rtol=1e-6)
    np.testing.assert_allclose(dlc.grad(dlc.jit(loss))(w, x).numpy(), plain, rtol=1e-6)
    hessian = dlc.jit(lambda w: dlc.vmap(lambda v: dlc.jvp(lambda w: dlc.grad(loss)(w, x), (w,), (v,))[1])(dlc.eye(3)))(
        w
    ).numpy()
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-4)


def test_nested_jit_of_grad_of_grad():
    f = dlc.jit(dlc.grad(dlc.jit(dlc.grad(lambda x: x * x * x * x))))
    assert f(dlc.Tensor(2.0)).item() == 48


def test_a_value_that_leaks_out_of_vmap():
    kept = []
    dlc.vmap(lambda x: kept.append(x * 2) or x)(dlc.Tensor([1.0, 2.0]))
    with pytest.raises(dlc.TraceError, match=r"made at .*test_transforms.py:\d+ during vmap"):
        kept[0].numpy()


def test_backward_inside_vmap_points_to_grad():
    w = dlc.Tensor([1.0], requires_grad=True)
    with pytest.raises(dlc.TraceError, match=r"backward\(\) inside vmap.*dlc.grad"):
        dlc.vmap(lambda x: (x * w).sum().backward())(dlc.Tensor([[1.0]]))


def test_numbers_give_way_inside_bodies_too():
    x = dlc.asarray(np.ones(2, np.float16))

    def scaled(x, s):
        return dlc.checkpoint(lambda x, s: x * s)(x, s)

    assert dlc.jit(scaled)(x, 2.0).dtype is scaled(x, 2.0).dtype is dlc.float16
    grads = dlc.jit(dlc.grad(lambda s, x: scaled(x, s).sum()))(dlc.asarray(3.0), x)
    assert float(grads) == 2.0


def test_scan_of_a_negative_length():
    with pytest.raises(dlc.ShapeError, match="-1 steps"):
        dlc.scan(lambda c, _: (c, c), 0.0, length=-1)


@pytest.mark.parametrize("leave", [lambda a: a.numpy(), np.asarray, np.sum, lambda a: (a * 2).numpy(), np.from_dlpack],
                         ids=["numpy", "asarray", "sum", "computed", "dlpack"])
def test_a_derivative_does_not_end_in_an_array_unnoticed(leave):
    x = dlc.asarray([1.0, 2.0], device="cpu")

    def loss(a):
        return (dlc.asarray(leave(a), device="cpu") ** 2).sum()

    for take in (dlc.grad(loss), lambda x: dlc.vjp(loss, x), lambda x: dlc.jvp(loss, (x,), (x,))):
        with pytest.raises(dlc.TraceError, match=r"derivatives do not pass through an array(.|\n)*test_transforms.py:"):
            take(x)
    assert dlc.grad(lambda a: (a * dlc.asarray(leave(a.detach()), device="cpu")).sum())(x).shape == (2,)
    assert dlc.grad(lambda a: (a * a.sum().item()).sum())(x).tolist() == [3, 3]


def test_parts_of_a_carry_that_change_places():
    """One part is read, and in the same kernel another is written over it."""
    r = np.random.default_rng(5)
    a, b, xs = (r.integers(-9, 9, shape).astype(np.int32) for shape in ((100,), (100,), (3, 100)))
    (first, second), _ = dlc.scan(lambda c, x: ((dlc.maximum(c[1], c[0] + x), c[0]), c[0] + x),
                                  (dlc.asarray(a), dlc.asarray(b)), dlc.asarray(xs))
    for x in xs:
        a, b = np.maximum(b, a + x), a
    np.testing.assert_array_equal(first.numpy(), a)
    np.testing.assert_array_equal(second.numpy(), b)
