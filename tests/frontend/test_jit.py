"""jit: what is traced, what is an input, what is compiled again, what comes back."""

import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.runtime import programs


def t(*values, dtype=None, **kw):
    return dlc.Tensor(list(values), dtype, **kw)


def drop(*values):
    """For a lambda that is called for its effect."""


def test_traces_once_for_each_signature():
    lines = []

    @dlc.jit
    def f(x):
        lines.append(x.shape)
        return x + 1

    assert f(t(1.0)).tolist() == [2]
    assert f(t(5.0)).tolist() == [6]
    assert f(t(1.0, 2.0)).tolist() == [2, 3]
    assert f(t(1)).tolist() == [2]
    assert lines == [(1,), (2,), (1,)]


def test_pending_and_computed_arguments_share_an_entry():
    f = dlc.jit(lambda x: x * 2)
    f(t(1.0))
    f(t(1.0) + 1)
    f(dlc.ones(1))
    f(np.ones(1, np.float32))
    assert f.traces == 1


def test_numbers_are_inputs_and_weakly_typed():
    f = dlc.jit(lambda x, s: x * s)
    x16 = t(1.0, 2.0, dtype=dlc.float16)
    assert f(x16, 3.0).tolist() == [3, 6]
    assert f(x16, 4.5).tolist() == [4.5, 9]
    assert f(x16, 4.5).dtype is dlc.float16
    assert f.traces == 1
    assert f(x16, 2).dtype is dlc.float16
    assert f.traces == 2  # int and float are different
    x64 = dlc.Tensor(np.array([1.0]))
    assert f(x64, 0.1).item() == 0.1  # not rounded to float32 on the way


def test_a_number_returned_as_it_came():
    y = dlc.jit(lambda s: s)(2.5)
    assert (y.item(), y.dtype) == (2.5, dlc.float32)


def test_bools_strings_and_none_are_static():
    @dlc.jit
    def f(x, double, mode="a", extra=None):
        if double:
            x = x * 2
        return (x, mode, extra)

    assert f(t(1.0), True)[0].tolist() == [2]
    assert f(t(1.0), False)[0].tolist() == [1]
    assert f(t(1.0), False, mode="b")[1] == "b"
    assert f.traces == 3


def test_static_arguments():
    @dlc.jit(static_argnames="n")
    def f(x, n):
        for _ in range(n):
            x = x * 2
        return x

    assert f(t(1.0), 3).tolist() == [8]
    assert f(t(1.0), n=4).tolist() == [16]
    g = dlc.jit(lambda x, n: x * n, static_argnums=1)
    assert [g(t(1.0), n).item() for n in (1, 1.0, True)] == [1, 1, 1]
    assert g.traces == 3  # equal, and different types


def test_an_unhashable_argument():
    class Settings:
        __hash__ = None

    with pytest.raises(TypeError, match=r"argument 'cfg' of f is a Settings, which is neither.*\n.*test_jit.py"):

        def f(x, cfg):
            return x

        dlc.jit(f)(t(1.0), Settings())


@dataclasses.dataclass
class State:
    w: object
    steps: object


def test_trees_in_and_out():
    @dlc.jit
    def f(state, batch):
        return State(state.w + batch["x"], state.steps + 1), {"sum": batch["x"].sum(), "none": None, "name": "s"}

    state, out = f(State(t(1.0), 3), {"x": t(2.0)})
    assert (state.w.tolist(), state.steps.item()) == ([3], 4)
    assert (out["sum"].item(), out["none"], out["name"]) == (2, None, "s")


def test_closed_over_tensors_are_read_at_each_call():
    w = t(1.0)
    f = dlc.jit(lambda x: x * w)
    assert f(t(2.0)).tolist() == [2]
    w.assign([10.0])
    assert f(t(2.0)).tolist() == [20]
    assert f.traces == 1


def test_assigned_tensors_keep_their_values():
    w, count = t(1.0), dlc.Tensor(0)

    @dlc.jit
    def f(x):
        w.assign(w + x)
        count.assign(count + 1)
        return w * 100

    assert f(t(1.0)).tolist() == [200]
    assert f(t(1.0)).tolist() == [300]
    assert (w.tolist(), count.item(), f.traces) == ([3], 2, 1)


def test_assigned_tensors_are_updated_in_place_when_nobody_else_holds_them():
    w = t(*range(100), dtype=dlc.float32).realize()
    f = dlc.jit(lambda: drop(w.assign(w + 1)))
    address = w._node.data.address
    f()
    f()
    assert w._node.data.address == address
    held = w.numpy()
    f()
    shared = w.device == "cpu"  # what numpy() gives of a GPU's memory is a copy
    assert (w._node.data.address != address) == shared
    assert (held[0], w.numpy()[0]) == (2, 3)


def test_in_place_operations_on_closed_over_tensors():
    w = t(1.0, 2.0)

    @dlc.jit
    def f():
        w[0] = 10.0

    f()
    assert w.tolist() == [10, 2]


def test_swapping_two_tensors():
    a, b = t(1.0), t(2.0)

    @dlc.jit
    def swap():
        old = a.detach()
        a.assign(b)
        b.assign(old)

    for _ in range(3):
        swap()
    assert (a.tolist(), b.tolist()) == ([2], [1])


def test_a_training_step():
    dlc.manual_seed(0)
    x = dlc.Tensor(np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32))
    y = x.sum(axis=1, keepdims=True)
    losses = {}
    for how in (dlc.jit, lambda f: f):
        dlc.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        opt = optim.Adam(model.parameters(), lr=0.05)

        @how
        def step(x, y, model=model, opt=opt):
            loss = ((model(x) - y) ** 2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        losses[how] = [step(x, y).item() for _ in range(20)]
        assert all(p.grad is not None for p in model.parameters())
    jitted, eager = losses.values()
    np.testing.assert_allclose(jitted, eager, rtol=1e-4)
    assert jitted[-1] < jitted[0] / 3


def test_gradients_after_the_call_are_concrete():
    w = t(3.0, requires_grad=True)

    @dlc.jit
    def f(x):
        w.grad = None
        (w * w * x).sum().backward()

    f(t(1.0))
    first = w.grad
    assert first.tolist() == [6]
    f(t(10.0))
    assert w.grad.tolist() == [60]
    assert first.tolist() == [6]
    assert f.traces == 1


def test_gradient_buffers_are_reused():
    w = t(3.0, requires_grad=True)

    @dlc.jit
    def f(x):
        w.grad = None
        (w * w * x).sum().backward()

    f(t(1.0))
    address = w.grad._node.data.address
    f(t(2.0))
    assert w.grad._node.data.address == address
    assert w.grad.tolist() == [12]


def test_gradients_accumulate_over_calls():
    w = t(3.0, requires_grad=True)
    f = dlc.jit(lambda x: (w * x).sum().backward())
    for _ in range(2):
        f(t(1.0))
        f(t(10.0))
        f(t(100.0))
        assert w.grad.tolist() == [111]
        w.grad = None
    assert f.traces == 2


def test_accumulated_gradients_are_updated_in_place():
    w = t(3.0, requires_grad=True)
    f = dlc.jit(lambda x: (w * x).sum().backward())
    for _ in range(3):
        f(t(1.0))
    address = w.grad._node.data.address
    f(t(1.0))
    assert w.grad._node.data.address == address
    held = w.grad.numpy()
    f(t(1.0))
    assert (held.item(), w.grad.item()) == (4, 5)


def test_gradient_of_an_argument():
    f = dlc.jit(lambda x: (x * x).sum().backward())
    x = t(3.0, requires_grad=True)
    f(x)
    f(x)
    assert x.grad.tolist() == [12]


def test_backward_through_a_jitted_forward():
    w = t(3.0, requires_grad=True)
    forward = dlc.jit(lambda x: (w * x, x))
    for scale in (1.0, 10.0):
        y, _ = forward(t(2.0))
        assert y.requires_grad
        (y * scale).sum().backward()
    assert w.grad.tolist() == [22]
    assert forward.traces == 1
    with dlc.no_grad():
        assert not forward(t(2.0))[0].requires_grad


def test_an_argument_with_history():
    w = t(3.0, requires_grad=True)
    f = dlc.jit(lambda h: (h * h).sum())
    f(w * 2).backward()
    assert w.grad.tolist() == [24]


def test_the_old_graph_survives_an_update():
    w = t(3.0, requires_grad=True)
    forward = dlc.jit(lambda x: w * x)
    update = dlc.jit(lambda: drop(w.assign(w * 100)))
    y = forward(t(2.0))
    update()
    (y * y).sum().backward()
    assert w.grad.tolist() == [24]  # d(w x)^2/dw = 2 w x^2 at the old w
    assert w.tolist() == [300]


def test_nested_jit_is_one_program():
    inner = dlc.jit(lambda x: x * 2)
    outer = dlc.jit(lambda x: inner(x) + inner(x + 1))
    assert outer(t(1.0)).tolist() == [6]
    assert (outer.traces, inner.traces) == (1, 0)


def test_recursion():
    @dlc.jit(static_argnums=1)
    def power(x, n):
        return dlc.ones_like(x) if n == 0 else x * power(x, n - 1)

    assert power(t(2.0), 5).tolist() == [32]


def test_methods():
    class Counter:
        def __init__(self):
            self.total = dlc.Tensor(0)

        @dlc.jit
        def add(self, n):
            self.total.assign(self.total + n)
            return self.total

    a, b = Counter(), Counter()
    a.add(1)
    a.add(2)
    b.add(10)
    assert (a.total.item(), b.total.item()) == (3, 10)


def test_what_comes_back_is_the_object_itself_where_it_was_not_computed():
    w = t(1.0)
    f = dlc.jit(lambda x: (x, w))
    x = t(2.0)
    assert f(x)[0] is x
    assert f(x)[1] is w


def test_numpy_arrays_are_read_again():
    a = np.ones(3, np.float32)
    f = dlc.jit(lambda x: x + dlc.asarray(a))
    assert f(t(1.0, 1.0, 1.0)).tolist() == [2, 2, 2]
    a[0] = 5
    assert f(t(1.0, 1.0, 1.0)).tolist() == [6, 2, 2]


def test_random_numbers_are_new_at_each_call():
    dlc.manual_seed(0)
    f = dlc.jit(lambda: dlc.rand(3))
    first, second = f().tolist(), f().tolist()
    assert first != second
    dlc.manual_seed(0)
    assert f().tolist() == first
    dlc.manual_seed(0)
    assert dlc.rand(3).tolist() == first  # the same inside and outside


def test_equal_graphs_are_compiled_once(monkeypatch):
    count = []
    original = programs.compile_graph
    monkeypatch.setattr(programs, "compile_graph", lambda *a, **k: count.append(1) or original(*a, **k))
    for _ in range(3):
        f = dlc.jit(lambda x: x * 1.03125 + 7)
        f(t(1.0))
    assert len(count) == 1


def test_many_retraces_warn_and_say_why():
    f = dlc.jit(lambda batch: batch["x"] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(1, 9):
            f({"x": dlc.zeros(n)})
    with pytest.warns(
        RuntimeWarning, match=r"argument 'batch\['x'\]' changed from float32 \(8,\)( on cuda:0)? to float32 \(9,\)"
    ) as caught:
        f({"x": dlc.zeros(9)})
    assert caught[0].filename == __file__


def test_the_graph_can_be_had_without_running():
    w = t(1.0)
    graph = dlc.jit(lambda x: drop(w.assign(w + x))).graph(t(1.0))
    assert [n.op for n in graph.nodes()].count("add") == 1
    assert w.tolist() == [1]


def test_debug_checks_compiled_functions():
    f = dlc.jit(lambda x: dlc.log(x) * 2)
    bad = t(1.0, -1.0)
    f(bad)
    with dlc.debug(), pytest.raises(dlc.NaNFound, match=r"log made a NaN at index \(1,\).*\n  at .*test_jit.py:\d+"):
        f(bad)
    table, index = t(1.0, 2.0), t(5)
    g = dlc.jit(lambda i: dlc.take(table, i))
    assert g(index).tolist() == [2]
    with dlc.debug(), pytest.raises(dlc.IndexOutOfRange, match=r"index: 5 is outside axis 0.*\n  at .*test_jit.py"):
        g(index)


def test_static_arguments_that_are_not_there():
    for options in ({"static_argnames": "mod"}, {"static_argnums": 2}, {"static_argnums": (0, -3)}):
        with pytest.raises(ValueError, match=r"jit: <lambda> has no argument .* it takes x, mode\n  at .*test_jit.py"):
            dlc.jit(lambda x, mode: x, **options)
    for options in ({"static_argnames": "mod"}, {"static_argnums": 2}):
        dlc.jit(lambda *args, **kwargs: args[0], **options)
    assert dlc.jit(lambda x, *, mode: x, static_argnames="mode")(t(1.0), mode=[].append).tolist() == [1]


def test_a_jitted_module_has_what_the_module_has():
    model = nn.Dropout(0.5)
    model.graph = "its own"
    compiled = dlc.jit(nn.Sequential(nn.Linear(2, 2), model))
    assert len(list(compiled.parameters())) == 2
    compiled.eval()
    assert compiled.training is model.training is False
    assert callable(dlc.jit(model).graph)
    with pytest.raises(AttributeError, match="Sequential has no attribute 'nothing'"):
        compiled.nothing  # noqa: B018


@dlc.jit
def double(x):
    return x * 2


def test_jitted_functions_are_copied_and_pickled_like_functions():
    assert copy.deepcopy(double) is pickle.loads(pickle.dumps(double)) is double
    model = nn.Sequential(nn.Linear(2, 2))
    model.step = dlc.jit(model.forward, static_argnums=())
    x = dlc.ones(1, 2)
    other = copy.deepcopy(model)
    before = model(x).numpy().copy()
    other[0].weight.assign(other[0].weight * 0)
    other[0].bias.assign(other[0].bias * 0)
    assert other.step(x).tolist() == [[0, 0]]
    assert model.step(x).numpy().tolist() == before.tolist()
    assert pickle.loads(pickle.dumps(dlc.jit(model)))(x).tolist() == before.tolist()


def test_debug_checks_inside_its_block():
    with dlc.debug(), pytest.raises(dlc.NaNFound, match=r"log made a NaN .*\n  at .*test_jit.py"):
        dlc.log(t(-1.0))  # nobody looks at it
    w = t(2.0, requires_grad=True)
    with dlc.debug():
        loss = (w * w).sum()
        loss.backward()
        gradient = dlc.grad(lambda x: dlc.sqrt(x).sum())(t(4.0))
        value, second = dlc.value_and_grad(lambda x: dlc.grad(lambda y: (y**3).sum())(x).sum())(t(2.0))
    assert w.grad.tolist() == [4]
    assert gradient.tolist() == [0.25]
    assert value.item() == second.item() == 12.0


def test_parameters_are_not_made_in_a_trace():
    for make in (lambda: nn.Linear(2, 2).weight, lambda: nn.init.normal_(dlc.zeros(2))):
        with pytest.raises(dlc.TraceError, match=r"^parameters are made and filled outside of traced functions"):
            dlc.jit(make)()


def test_debug_checks_class_numbers():
    scores, good, bad = dlc.zeros((2, 3)), t(2, -100), t(1, 3)
    functions = (
        lambda y: F.cross_entropy(scores, y),
        lambda y: F.one_hot(dlc.where(y < 0, 0, y), 3),
        lambda y: dlc.vmap(lambda s, y: F.nll_loss(s, y, reduction="sum"))(scores, y),
        lambda y: dlc.scan(lambda c, y: (c + F.cross_entropy(scores[0], y, reduction="sum"), None), 0.0, y)[0],
    )
    for k, function in enumerate(map(dlc.jit, functions)):
        function(bad).realize()
        with dlc.debug():
            function(good)
            with pytest.raises(dlc.IndexOutOfRange, match=r"class 3 is outside the 3 classes\n  at .*test_jit.py"):
                function(bad)
        assert "below=3" in str(function.graph(good)), k
        assert "below" not in function.lower(good).text("simplified")


def warned(call, times=9):
    """The retrace warning of the last of some calls `call(k)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(times - 1):
            call(k)
    with pytest.warns(RuntimeWarning) as caught:
        call(times - 1)
    return str(caught[0].message)


def test_the_retrace_warning_names_another_model():
    """Another model object as an argument is no changed attribute."""
    f = dlc.jit(lambda model, x: model(x))
    models = [dlc.nn.Linear(3, 2) for _ in range(9)]
    message = warned(lambda k: f(models[k], dlc.ones(1, 3)))
    assert "argument 'model' is another Linear than before" in message and "attribute" not in message


def test_the_retrace_warning_names_a_collected_model():
    f = dlc.jit(lambda model, x: model(x))
    message = warned(lambda k: f(dlc.nn.Linear(3, 2), dlc.ones(1, 3)))
    assert "argument 'model' is another Linear than before" in message


def test_the_retrace_warning_names_a_changed_attribute():
    model = dlc.nn.Sequential(dlc.nn.Linear(3, 2))
    model.scale = 1.0
    f = dlc.jit(lambda x: model(x) * model.scale)

    def call(k):
        model.scale = float(k)
        f(dlc.ones(1, 3))

    assert "'scale' of a Sequential changed from 7.0 to 8.0" in warned(call)


def test_the_retrace_warning_names_a_changed_closure():
    def call(k, cell=[0]):  # noqa: B006
        nonlocal scale
        scale = f"{k}"
        f(dlc.ones(1))

    scale = ""
    f = dlc.jit(lambda x: x * float(scale))
    assert "variable scale (in <lambda>) changed from '7' to '8'" in warned(call)


def test_an_entry_is_a_record_that_running_does_not_change():
    weight = nn.Parameter(dlc.ones(3))

    @dlc.jit
    def step(x):
        loss = (weight * x).sum()
        loss.backward()
        return loss

    def fields(entry):
        return {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}

    def shown(values):
        return repr({**values, "guards": None, "graph": str(values["graph"])})

    for _ in range(2):  # without a gradient, and with one
        step(dlc.ones(3))
    compiled = max((c for found in step._entries.values() for c in found), key=lambda c: c.used)
    with pytest.raises(dataclasses.FrozenInstanceError):
        compiled.entry.device = "cuda"
    before, text = fields(compiled.entry), shown(fields(compiled.entry))
    executable, used = compiled.executable, compiled.used
    step(dlc.ones(3))
    step.lower(dlc.ones(3)).profile(2)
    assert compiled.executable is executable and compiled.used > used
    assert all(value is before[name] for name, value in fields(compiled.entry).items())
    assert shown(fields(compiled.entry)) == text
