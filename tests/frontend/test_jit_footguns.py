"""Nothing silently stale, nothing overwritten: what goes wrong in other systems of this kind, one test each."""

import gc
import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import dlc
from dlc import nn

SCALE = 2.0
TABLE = {"scale": 2.0}
LAYERS = []


def t(*values, **kw):
    return dlc.Tensor(list(values), **kw)


def drop(*values):
    """For a lambda that is called for its effect."""


# --- closures and globals ---


@pytest.fixture(autouse=True)
def _restore():
    global SCALE
    yield
    SCALE = 2.0
    TABLE["scale"] = 2.0
    LAYERS.clear()


def test_a_changed_global():
    global SCALE
    f = dlc.jit(lambda x: x * SCALE)
    assert f(t(1.0)).item() == 2
    SCALE = 3.0
    assert f(t(1.0)).item() == 3
    SCALE = 2.0
    assert f(t(1.0)).item() == 2
    assert f.traces == 2  # the first entry is valid again


def test_a_changed_closure_variable():
    scale = 2.0
    f = dlc.jit(lambda x: x * scale)
    assert f(t(1.0)).item() == 2
    scale = 3.0
    assert f(t(1.0)).item() == 3


def helper(x):
    return deeper(x)


def deeper(x):
    return x * SCALE


def test_a_global_read_by_a_helper():
    global SCALE
    f = dlc.jit(lambda x: helper(x))
    assert f(t(1.0)).item() == 2
    SCALE = 3.0
    assert f(t(1.0)).item() == 3


def test_a_replaced_helper(monkeypatch):
    f = dlc.jit(lambda x: helper(x))
    f(t(1.0))
    monkeypatch.setitem(globals(), "deeper", lambda x: x * 50)
    assert f(t(1.0)).item() == 50


def test_a_changed_dictionary():
    f = dlc.jit(lambda x: x * TABLE["scale"])
    f(t(1.0))
    TABLE["scale"] = 7.0
    assert f(t(1.0)).item() == 7


def test_a_list_of_layers_that_grows():
    def forward(x):
        for layer in LAYERS:
            x = layer(x)
        return x

    f = dlc.jit(forward)
    assert f(t(1.0)).item() == 1
    LAYERS.append(lambda x: x * 5)
    assert f(t(1.0)).item() == 5


def test_a_changed_default():
    def f(x, scale=2.0):
        return x * scale

    g = dlc.jit(f)
    g(t(1.0))
    f.__defaults__ = (5.0,)
    assert g(t(1.0)).item() == 5


class Config:
    scale = 2.0

    def __init__(self):
        self.offset = 1.0

    @property
    def twice(self):
        return self.offset * 2

    def apply(self, x):
        return x * self.scale + self.twice


CONFIG = Config()


def test_attributes_of_objects():
    config = Config()
    f = dlc.jit(lambda x: config.apply(x))
    assert f(t(1.0)).item() == 4
    config.offset = 10.0
    assert f(t(1.0)).item() == 22
    config.scale = 100.0  # shadows the class
    assert f(t(1.0)).item() == 120


def test_attributes_of_a_static_argument():
    f = dlc.jit(lambda config, x: config.apply(x))
    config = Config()
    assert f(config, t(1.0)).item() == 4
    config.offset = 10.0
    assert f(config, t(1.0)).item() == 22


def test_self_attributes_in_a_method():
    class Scaler:
        def __init__(self):
            self.scale = 2.0

        @dlc.jit
        def __call__(self, x):
            return x * self.scale

    s = Scaler()
    assert s(t(1.0)).item() == 2
    s.scale = 3.0
    assert s(t(1.0)).item() == 3


def test_a_rebound_tensor():
    w = t(2.0)
    f = dlc.jit(lambda x: x * w)
    assert f(t(1.0)).item() == 2
    w = t(3.0)
    assert f(t(1.0)).item() == 3


def test_a_tensor_of_another_shape_under_the_same_name():
    holder = {"w": t(2.0)}
    f = dlc.jit(lambda x: (x * holder["w"]).sum())
    assert f(t(1.0)).item() == 2
    holder["w"] = t(1.0, 2.0)
    assert f(t(1.0)).item() == 3


def test_a_python_counter_in_the_function():
    calls = 0

    @dlc.jit
    def f(x):
        nonlocal calls
        calls += 1
        return x * calls

    assert [f(t(1.0)).item() for _ in range(3)] == [1, 2, 3]


# --- modules ---


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.linear.weight.assign([[2.0]])
        self.linear.bias.assign([0.0])
        self.factor = 1.0
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.linear(x) * self.factor * SCALE
        return x if self.training else x + 1000


def test_train_and_eval():
    net = Net()
    f = dlc.jit(lambda x: net(x))
    x = t([1.0])
    assert f(x).item() == 4
    net.eval()
    assert f(x).item() == 1004
    net.train()
    assert f(x).item() == 4
    assert f.traces == 2


def test_a_module_flag_with_nothing_to_report_before():
    act = nn.Dropout(0.5)
    f = dlc.jit(lambda x: act(x))
    assert set(f(dlc.ones(64)).tolist()) == {0, 2}
    act.eval()
    assert set(f(dlc.ones(64)).tolist()) == {1}


def test_module_attributes_parameters_and_layers():
    net = Net()
    f = dlc.jit(lambda x: net(x))
    x = t([1.0])
    f(x)
    net.factor = 3.0
    assert f(x).item() == 12
    net.linear.weight = nn.Parameter(t([5.0]))
    assert f(x).item() == 30
    net.linear = nn.Linear(1, 1, bias=False)
    net.linear.weight.assign([[1.0]])
    assert f(x).item() == 6


def test_a_global_read_in_forward():
    global SCALE
    net = Net()
    f = dlc.jit(lambda x: net(x))
    f(t([1.0]))
    SCALE = 5.0
    assert f(t([1.0])).item() == 10


def test_a_frozen_parameter():
    net = Net()

    @dlc.jit
    def f(x):
        for p in net.parameters():
            p.grad = None
        net(x).sum().backward()

    f(t([1.0]))
    assert net.linear.weight.grad is not None
    net.linear.weight.requires_grad = False
    f(t([1.0]))
    assert net.linear.weight.grad is None
    assert net.linear.bias.grad is not None


def test_building_another_model_traces_nothing_again():
    net = Net()
    f = dlc.jit(lambda x: net(x))
    f(t([1.0]))
    Net().linear.eval()
    f(t([1.0]))
    assert f.traces == 1


def test_load_state_dict_between_calls():
    net, other = Net(), Net()
    f = dlc.jit(lambda x: net(x))
    f(t([1.0]))
    other.linear.weight.assign([[9.0]])
    net.load_state_dict(other.state_dict())
    assert f(t([1.0])).item() == 18
    assert f.traces == 1


def test_batch_norm_statistics_move():
    norm = nn.BatchNorm1d(2)
    f = dlc.jit(lambda x: norm(x))
    x = dlc.Tensor(np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    f(x)
    once = norm.running_mean.numpy()
    f(x)
    np.testing.assert_allclose(once, [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(norm.running_mean.numpy(), [0.38, 0.76], rtol=1e-6)


# --- values that are still held ---


def test_old_values_never_change():
    w = t(1.0)

    @dlc.jit
    def f():
        w.assign(w + 1)
        return w

    seen = [w.detach(), dlc.Tensor(w), w + 0, w.numpy(), w.reshape(1)]
    f()
    f()
    assert [float(np.asarray(s)[0]) for s in seen] == [1] * 5
    assert w.item() == 3


def test_a_result_that_is_the_state_before_the_update():
    w = t(1.0)

    @dlc.jit
    def f():
        old = w + 0
        same = w.detach()
        w.assign(w + 1)
        return old, same

    old, same = f()
    f()
    assert (old.item(), same.item(), w.item()) == (1, 1, 3)


def test_two_cells_with_one_value():
    a = t(1.0).realize()
    b = dlc.Tensor(a)
    f = dlc.jit(lambda: drop(a.assign(a + 1)))
    f()
    assert (a.item(), b.item()) == (2, 1)


def test_a_numpy_array_is_never_written():
    source = np.ones(4, np.float32)
    w = dlc.from_dlpack(source)
    f = dlc.jit(lambda: drop(w.assign(w + 1)))
    f()
    f()
    assert source.tolist() == [1] * 4
    assert w.tolist() == [3] * 4


def test_gradients_held_by_the_user_never_change():
    w = t(3.0, requires_grad=True)

    @dlc.jit
    def f(x):
        w.grad = None
        (w * x).sum().backward()

    held = []
    for k in range(3):
        f(t(float(k)))
        held.append((w.grad, w.grad.numpy(), w.grad.detach()))
    assert [[float(np.asarray(g)[0]) for g in row] for row in held] == [[0] * 3, [1] * 3, [2] * 3]


# --- aliasing ---


def test_the_same_tensor_for_two_arguments():
    f = dlc.jit(lambda a, b: (a.assign(a + b), b * 10)[1])
    x = t(1.0)
    assert f(x, x).item() == 20
    assert x.item() == 2
    y, z = t(1.0), t(5.0)
    assert f(y, z).item() == 50
    assert (y.item(), z.item()) == (6, 5)
    assert f(x, x).item() == 40


def test_an_argument_that_is_also_closed_over_and_assigned():
    w = t(1.0)

    @dlc.jit
    def f(x):
        w.assign(w + 1)
        return x * 10

    assert f(w).item() == 20  # x is w: it has changed
    assert f(t(1.0)).item() == 10
    assert f(w).item() == 40
    assert w.item() == 4


def test_an_assigned_argument():
    f = dlc.jit(lambda x: drop(x.assign(x * 2)))
    x = t(1.0)
    old = x.numpy()
    f(x)
    f(x)
    assert (x.item(), old.item()) == (4, 1)


def test_an_argument_that_shares_its_value_with_a_closed_over_tensor():
    w = t(1.0).realize()

    @dlc.jit
    def f(x):
        w.assign(w + 1)
        return x * 10

    assert f(w.detach()).item() == 10
    assert f(w.detach()).item() == 20


# --- traced values in the wrong place ---


@pytest.mark.parametrize(
    ("look", "what", "advice"),
    [
        (lambda x: 1 if x.sum() > 0 else 2, r"bool\(\)", "dlc.where"),
        (lambda x: x.sum().item(), r"item\(\)", "static_argnums"),
        (lambda x: x.numpy(), r"numpy\(\)", "return it"),
        (lambda x: float(x.sum()), r"float\(\)", "return it"),
        (lambda x: np.asarray(x), "NumPy", "return it"),
        (lambda x: x.tolist(), "tolist", "return it"),
        (lambda x: [1, 2, 3][x.astype(dlc.int64).sum()], r"index\(\)", "return it"),
    ],
)
def test_looking_at_a_traced_value(look, what, advice):
    def f(x):
        return look(x)

    with pytest.raises(dlc.TraceError, match=what) as error:
        dlc.jit(f)(t(1.0))
    text = str(error.value)
    assert advice in text
    assert f"at {__file__}:{look.__code__.co_firstlineno}" in text
    assert "f is being traced by jit" in text


def test_looking_at_a_closed_over_tensor_is_the_same_error():
    flag = t(1.0)
    with pytest.raises(dlc.TraceError, match=r"bool\(\) needs a value"):
        dlc.jit(lambda x: x if flag else x * 2)(t(1.0))


def test_constants_may_be_looked_at():
    f = dlc.jit(lambda x: x * int(dlc.arange(4).sum()))
    assert f(t(1.0)).item() == 6


def test_a_traced_value_can_be_printed(capsys):
    dlc.jit(lambda x: print(x) or x)(t(1.0))
    assert "Tensor(<traced>, shape=(1,), dtype=float32)" in capsys.readouterr().out


def test_a_leaked_value_names_where_it_was_made():
    kept = []

    def f(x):
        y = x * 3  # made here
        kept.append(y)
        return y

    dlc.jit(f)(t(1.0))
    line = f.__code__.co_firstlineno + 1
    for use in (
        lambda: kept[0].numpy(),
        lambda: kept[0] + 1,
        lambda: dlc.jit(lambda z: z)(kept[0]),
        lambda: kept[0].assign(0.0),
    ):
        with pytest.raises(
            dlc.TraceError, match=rf"made at {__file__}:{line} during jit of f was used after the trace"
        ) as error:
            use()
        assert "assign" in str(error.value)
    with pytest.raises(dlc.TraceError, match="after the trace"):
        dlc.jit(lambda x: x + kept[0])(t(1.0))
    assert "traced" in repr(kept[0])


def test_a_value_assigned_to_a_global_leaks():
    holder = {}

    @dlc.jit
    def f(x):
        holder["last"] = x * 2
        return x

    f(t(1.0))
    with pytest.raises(dlc.TraceError, match="never had a value"):
        print(holder["last"].item())


# --- exceptions ---


def test_an_exception_leaves_everything_as_it_was():
    w = t(1.0, requires_grad=True)
    fail = True

    @dlc.jit
    def f(x):
        w.grad = None
        (w * x).sum().backward()
        w.assign(w + 1)
        x.assign(x * 0)
        if fail:
            raise KeyError("oops")
        return w

    x = t(5.0)
    w.grad = t(9.0)
    with pytest.raises(KeyError, match="oops"):
        f(x)
    assert (w.item(), x.item(), w.grad.item()) == (1, 5, 9)
    assert (t(1.0) + 1).item() == 2  # no trace is left active
    fail = False
    assert f(x).item() == 2
    assert (x.item(), w.grad.item()) == (0, 5)


def test_ctrl_c_during_a_trace():
    def f(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dlc.jit(f)(t(1.0))
    assert (t(1.0) * 2).item() == 2


def test_generators_and_coroutines_are_refused():
    def gen(x):
        yield x

    async def coro(x):
        return x

    with pytest.raises(TypeError, match="gen is a generator"):
        dlc.jit(gen)
    with pytest.raises(TypeError, match="coro is an async function"):
        dlc.jit(coro)
    with pytest.raises(TypeError, match="returned a generator"):
        dlc.jit(lambda x: (y for y in [x]))(t(1.0))
    with pytest.raises(TypeError, match=r"argument 'x' .* is a generator"):
        dlc.jit(lambda x: 1)(y for y in [1])


def test_a_callable_that_is_none():
    with pytest.raises(TypeError, match="not callable"):
        dlc.jit(3)


# --- threads ---


def test_threads_calling_one_function():
    count = dlc.Tensor(0)

    @dlc.jit
    def f(x):
        count.assign(count + 1)
        return (x * x).sum()

    wrong = []

    def work(k):
        for n in range(1, 30):
            x = dlc.Tensor(np.full(1 + n % 3, float(k), np.float32))
            if f(x).item() != k * k * (1 + n % 3):
                wrong.append((k, n))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert f.traces == 3
    assert count.item() == 4 * 29


def test_a_trace_in_one_thread_is_not_seen_by_another():
    w = t(1.0)
    inside, go_on = threading.Event(), threading.Event()
    seen = []

    @dlc.jit
    def f(x):
        w.assign(w + x)
        inside.set()
        go_on.wait(10)
        return w

    thread = threading.Thread(target=lambda: f(t(1.0)))
    thread.start()
    inside.wait(10)
    seen.append(w.item())
    go_on.set()
    thread.join()
    assert (seen, w.item()) == ([1], 2)


def test_reading_while_another_thread_updates_in_place():
    w = dlc.Tensor(np.zeros(20000, np.float32)).realize()
    f = dlc.jit(lambda: drop(w.assign(w + 1)))
    torn, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            a = w.numpy()
            if a.min() != a.max():
                torn.append((a.min(), a.max()))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(100):
        f()
    stop.set()
    thread.join()
    assert not torn
    assert w.numpy()[0] == 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.skipif(bool(os.environ.get("DLC_TEST_DEVICE")), reason="CUDA does not survive a fork")
def test_a_fork_while_other_threads_run_and_trace():
    f = dlc.jit(lambda x: x * 2)
    tracing, go_on = threading.Event(), threading.Event()

    @dlc.jit
    def slow(x):
        tracing.set()
        go_on.wait(10)
        return x + 1

    f(t(1.0)).realize()
    thread = threading.Thread(target=lambda: slow(t(1.0)))
    thread.start()
    tracing.wait(10)
    child = os.fork()
    if child == 0:
        go_on.set()
        ok = f(t(3.0)).item() == 6 and slow(t(1.0)).item() == 2
        os._exit(0 if ok else 1)
    go_on.set()
    thread.join()
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(done[1]) == 0


# --- memory ---


def test_results_are_freed():
    f = dlc.jit(lambda x: x + 1)
    out = f(dlc.ones(1000))
    buffer = weakref.ref(out._node.data)
    del out
    gc.collect()
    assert buffer() is None


def test_arguments_are_not_kept():
    f = dlc.jit(lambda x: x + 1)
    x = dlc.Tensor(np.ones(1000, np.float32))
    cell, buffer = weakref.ref(x), weakref.ref(x._node.data)
    f(x)
    del x
    gc.collect()
    assert cell() is None
    assert buffer() is None
