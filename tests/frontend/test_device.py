"""Devices in the frontend, on a GPU whose memory and kernels are imitated (tests/fake_gpu.py)."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from dlc.base.errors import DeviceError, OutOfMemory
from dlc.runtime import devices
from dlc.runtime.cuda import device as cuda_device
from tests import fake_gpu

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    return fake_gpu.use(monkeypatch)


def test_names():
    assert devices.canonical("cuda") == "cuda:0" and devices.canonical("CUDA:12") == "cuda:12"
    assert devices.canonical("cpu:0") == "cpu" and devices.canonical(dlc.device("cuda:1")) == "cuda:1"
    for bad in ("gpu", "cuda:", "cuda:x", "cpu:1", "", None, 3):
        with pytest.raises(DeviceError, match="devices are 'cpu', 'cuda' and 'cuda:N'"):
            devices.canonical(bad)


def test_a_gpu_that_is_not_there():
    with pytest.raises(DeviceError, match=r"zeros: no device 'cuda:7': this machine has 2 GPUs(.|\n)*test_device.py"):
        dlc.zeros(3, device="cuda:7")
    with pytest.raises(DeviceError, match=r"no device 'cuda:2'(.|\n)*test_device.py"):
        dlc.set_default_device("cuda:2")
    assert dlc.zeros(3).device == "cpu"


def test_without_cupy():
    """Nothing imports CuPy until a GPU is asked for, and then the error says how to install it."""
    code = """
import sys
sys.modules["cupy"] = None
import dlc
assert float((dlc.ones(3) + 1).sum()) == 6
for ask in (lambda: dlc.zeros(3, device="cuda"), lambda: dlc.ones(2).cuda(), lambda: dlc.set_default_device("cuda")):
    try:
        ask()
    except dlc.DeviceError as error:
        assert "pip install cupy-cuda13x" in str(error) and "<string>" in str(error), error
    else:
        raise AssertionError
assert dlc.ones(2).cpu().device == "cpu"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, dlc, dlc.nn, dlc.optim; (dlc.ones(3) + 1).numpy(); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_creation_and_copies():
    for make in (
        lambda d: dlc.zeros(2, 3, device=d), lambda d: dlc.full((2, 3), 7.0, device=d),
        lambda d: dlc.arange(5, device=d), lambda d: dlc.linspace(0, 1, 4, device=d), lambda d: dlc.eye(3, device=d),
        lambda d: dlc.asarray(X, device=d), lambda d: dlc.tensor([1.0, 2.0], device=d),
        lambda d: dlc.tensor(3, device=d),
        lambda d: dlc.asarray(dlc.asarray(X), device=d),
        lambda d: dlc.Tensor(X, device=d),
    ):  # fmt: skip
        here, there = make(None), make("cuda:1")
        assert there.device == "cuda:1" and here.device == "cpu"
        assert there.realize().device == "cuda:1"
        np.testing.assert_array_equal(there.numpy(), here.numpy())
    x = dlc.asarray(X, device="cuda")
    assert dlc.zeros_like(x).device == x.T.device == (x + 1).device == x.device == "cuda:0"
    assert x.to("cuda:1").device == "cuda:1" and x.to("cuda") is x and x.to("cuda:1").to(x).device == "cuda:0"
    np.testing.assert_array_equal(x.to("cuda:1").cpu().numpy(), X)
    assert x.to("cuda:1", dlc.float64).dtype is dlc.float64
    assert x.cuda(1).device == "cuda:1" and x.cpu().device == "cpu" and x.cpu().to("cpu").device == "cpu"
    half = dlc.asarray(X, dtype=dlc.bfloat16, device="cuda")
    np.testing.assert_array_equal((half * 2).cpu().float().numpy(), X * 2)
    assert repr(x).startswith("Tensor([[0.") and x.sum().item() == 15 and bool((x >= 0).all())


def test_default_device():
    with dlc.device("cuda:1"):
        assert dlc.zeros(3).device == dlc.asarray(X).device == dlc.randn(3).device == "cuda:1"
        late = dlc.ones(2)
        with dlc.device("cpu"):
            assert dlc.zeros(3).device == "cpu" == dlc.get_default_device()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(dlc.get_default_device()))
        thread.start()
        thread.join()
        assert seen == ["cpu"]
    assert late.realize().device == "cuda:1" and dlc.ones(2).device == "cpu"
    dlc.set_default_device("cuda")
    assert nn.Linear(2, 3).weight.device == "cuda:0" and dlc.zeros(2, device="cpu").device == "cpu"
    dlc.set_default_device("cpu")


def test_mixed_devices():
    x, y = dlc.asarray(X, device="cuda"), dlc.asarray(X)
    with pytest.raises(DeviceError) as error:
        dlc.maximum(x, y)
    text = str(error.value)
    assert text.startswith("maximum: operands are on different devices, cpu and cuda:0")
    assert "float32 (2, 3) on cuda:0, float32 (2, 3) on cpu\n" in text and "test_device.py" in text
    for mix in (
        lambda: x @ y.T, lambda: x + x.to("cuda:1"), lambda: dlc.concat((x, y)), lambda: x.assign(y),
        lambda: x + dlc.zeros(3, device="cpu"), lambda: dlc.where(x > 0, y, x), lambda: F.linear(x, y),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match=r"test_device\.py"):
            mix()
    # numbers, 0-d tensors and what is made of numbers alone go where they are used
    total = x + 1 + dlc.tensor(2.0) + dlc.ones(3) + dlc.arange(3)
    assert total.device == "cuda:0"
    np.testing.assert_array_equal(total.numpy(), X + 4 + np.arange(3))
    x[0, 0] = 5.0
    kept = dlc.zeros(3, device="cuda")
    kept.assign([1.0, 2.0, 3.0])
    assert kept.device == "cuda:0" and kept.numpy().tolist() == [1, 2, 3]
    x += 1
    assert x.device == "cuda:0" and x.numpy()[0, 0] == 6
    np.testing.assert_array_equal(x[[1, 0]].numpy()[:, 1], [5, 2])


def test_mixed_devices_in_jit():
    w = dlc.ones(3, device="cuda").realize()

    @dlc.jit
    def f(x):
        return x * w

    with pytest.raises(DeviceError, match=r"operands are on different devices(.|\n)*test_device.py"):
        f(dlc.asarray(X))
    np.testing.assert_array_equal(f(X).numpy(), X)  # an array goes where the function runs
    assert f(dlc.asarray(X, device="cuda")).device == "cuda:0"

    @dlc.jit
    def g(x):
        return x + 1, w + 1

    with pytest.raises(DeviceError, match="g uses tensors on cpu and cuda:0"):
        g(dlc.asarray(X))


def test_arrays_made_while_tracing_go_where_the_function_runs():
    weights = np.arange(3, dtype=np.float64)

    def total(x):
        return (x * x * dlc.asarray(weights.astype(np.float32)) * np.full(3, 2.0, np.float32)).sum()

    x = dlc.ones(3, device="cuda")
    assert dlc.jit(total)(x).item() == 6.0
    assert dlc.jit(dlc.grad(total))(x).tolist() == [0.0, 4.0, 8.0]


def test_random_numbers_are_the_same_everywhere():
    @dlc.jit
    def draw(x):
        return x + dlc.rand(3)

    drawn = []
    for device in ("cpu", "cuda", "cuda:1"):
        dlc.manual_seed(7)
        zero = dlc.zeros(3, device=device)
        rows = [draw(zero), draw(zero), dlc.rand(3, device=device), draw(zero)]
        assert {r.device for r in rows} == {devices.canonical(device)}
        drawn.append(np.stack([r.numpy() for r in rows]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert len(np.unique(drawn[0])) == 12
    state = dlc.random.default_generator.state
    assert state.device == "cuda:1"
    nn.Linear(2, 3)  # draws on the host
    state.assign(dlc.asarray(np.array([7, 0], np.uint64)))
    np.testing.assert_array_equal(draw(dlc.zeros(3)).numpy(), drawn[0][0])


def test_what_is_made_of_numbers_alone_has_no_device():
    x, ones = dlc.asarray(X, device="cuda"), dlc.ones(2, 3)
    assert (x + ones).device == "cuda:0" and ones.numpy().sum() == 6  # computed, on the CPU
    np.testing.assert_array_equal((x + ones).numpy(), X + 1)
    np.testing.assert_array_equal((x + dlc.ones(2, 3)).numpy(), X + 1)
    assert ones.device == "cpu" and dlc.ones(2, 3, device="cuda:1").realize().device == "cuda:1"
    f = dlc.jit(lambda a, b: a * b)
    assert f(x, ones).device == f(ones, x).device == "cuda:0" and f(ones, ones).device == "cpu"


def test_scalar_state_follows_the_computation():
    count, weight = dlc.tensor(0.0), dlc.ones(3, device="cuda").realize()
    here, there = dlc.asarray(X), dlc.asarray(X, device="cuda")

    @dlc.jit
    def on_gpu(x):
        count.assign(count + 1)
        return x * weight * count

    @dlc.jit
    def anywhere(x):
        count.assign(count * 2)
        return x * count + dlc.rand(3) * 0

    for k, value in enumerate((2, 6, 14, 30)):
        assert on_gpu(there).device == "cuda:0" == count.device
        out = anywhere((here, there, here, there)[k])
        np.testing.assert_array_equal(out.numpy(), X * value)
        kept = count.numpy()  # somebody holds the old value: the next one goes elsewhere
        assert count.device == out.device and kept == value
    assert count.item() == 30 and (count + there).device == "cuda:0" and (count + here).device == "cpu"
    assert count.cpu().device == "cpu" and on_gpu.traces == 1 and anywhere.traces == 2
    dlc.synchronize()
    dlc.synchronize("cuda")


def test_synchronize_waits_for_every_device_in_use(gpu):
    dlc.synchronize()
    assert not gpu.calls["synchronize"]
    x = dlc.asarray(X, device="cuda:1")
    dlc.synchronize()
    assert gpu.calls["synchronize 1"] == 1 and not gpu.calls["synchronize 0"]
    y = dlc.asarray(X, device="cuda:0")
    x += 1  # pending: started, and waited for
    dlc.synchronize()
    assert gpu.calls["synchronize 1"] == 2 and gpu.calls["synchronize 0"] == 1
    assert x._node.data is not None
    dlc.synchronize("cpu")
    dlc.synchronize(y.device)
    assert gpu.calls["synchronize 1"] == 2 and gpu.calls["synchronize 0"] == 2


def test_class_numbers_on_a_gpu_are_not_waited_for(gpu):
    good, bad = (dlc.asarray(np.array(v), device="cuda") for v in ([0, 2], [0, 3]))
    scores = dlc.asarray(X, device="cuda")
    functions = (
        lambda y: F.cross_entropy(scores, y),
        lambda y: F.nll_loss(scores, y),
        lambda y: F.one_hot(y, 3),
        lambda y: F.cross_entropy(scores, y.astype(dlc.int32)),
    )
    for function in functions:
        copies = gpu.calls["copies out"]
        loss, wrong = function(good), function(bad)
        assert gpu.calls["copies out"] == copies
        assert np.isfinite(loss.numpy()).all()
        assert np.isnan(wrong.numpy()).all() if wrong.dtype.is_float else wrong.numpy()[1].tolist() == [0, 0, 0]
        with dlc.debug():
            function(good)
            with pytest.raises(dlc.IndexOutOfRange, match="class 3 is outside the 3 classes"):
                function(bad)


def test_pickled_tensors_keep_their_device(gpu):
    for device in ("cpu", "cuda:0", "cuda:1"):
        for x in (dlc.asarray(X, device=device), dlc.asarray(X, device=device) * 2, nn.Parameter(X)):
            x = x if x.device == device else nn.Linear(2, 2).to(device).weight
            with dlc.device("cuda:1"):
                again = pickle.loads(pickle.dumps(x))
            assert again.device == device and type(again) is type(x) and again.requires_grad == x.requires_grad
            np.testing.assert_array_equal(again.numpy(), x.numpy())
    follower = pickle.loads(pickle.dumps(dlc.ones(2).realize()))  # made of numbers: it goes where it is used
    assert (follower + dlc.asarray(X[:, :2], device="cuda:1")).device == "cuda:1"
    model = nn.Linear(2, 2).to("cuda:1")
    assert {p.device for p in pickle.loads(pickle.dumps(model)).parameters()} == {"cuda:1"}
    assert pickle.loads(pickle.dumps(model.state_dict()))["weight"].device == "cuda:1"
    there = pickle.dumps(dlc.asarray(X, device="cuda:1"))
    gpu.count = 1
    with pytest.raises(DeviceError, match=r"a pickled tensor was on cuda:1; pickle x.cpu\(\).*: no device 'cuda:1'"):
        pickle.loads(there)


def test_jit_keys_on_the_device(gpu):
    dlc.device("cuda")
    @dlc.jit
    def f(x, n):
        return x * n + dlc.arange(3)

    for device in ("cpu", "cuda", "cuda:1", "cuda", "cpu"):
        x = dlc.asarray(X, device=device)
        for n in (1, 2.0, 2):
            out = f(x, n)
            assert out.device == x.device
            np.testing.assert_array_equal(out.numpy(), X * n + np.arange(3))
    assert f.traces == 6


def train(device, steps=4):
    dlc.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)).to(device)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.StepLR(optimizer, 2)

    @dlc.jit
    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        losses.append(step(rng.standard_normal((6, 4)).astype(np.float32), rng.integers(3, size=6)))
        schedule.step()
    assert step.traces == 1
    assert {p.device for p in model.parameters()} == {losses[0].device} == {devices.canonical(device)}
    return model, optimizer, np.array([float(v) for v in losses])


def test_training_gives_the_same_losses(gpu):
    _, _, cpu = train("cpu")
    model, optimizer, cuda = train("cuda")
    np.testing.assert_allclose(cuda, cpu, rtol=1e-5)
    assert gpu.calls["graphs"] == 1 and gpu.calls["graph launches"] == 3
    # back to the host and on: state dicts carry values between devices
    other = train("cuda:1", 1)[0]
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other[0].weight.numpy(), model[0].weight.numpy())
    again = optim.AdamW(model.parameters())
    again.load_state_dict(optimizer.state_dict())
    kept = model[0].weight
    model.cpu()
    assert model[0].weight is kept and kept.device == "cpu" and kept.grad.device == "cpu"
    assert model(dlc.ones(6, 4)).device == "cpu"


def test_moved_modules_are_compiled_again():
    layer = nn.Linear(3, 2)
    f = dlc.jit(lambda x: layer(x))
    expected = f(X).numpy().copy()
    for device in ("cuda", "cpu", "cuda:1"):
        layer.to(device)
        out = f(X)
        assert out.device == devices.canonical(device)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-6)


def test_gradients_and_moves():
    x = dlc.asarray(X, device="cuda").requires_grad_()
    (x * x).sum().backward()
    assert x.grad.device == "cuda:0"
    np.testing.assert_array_equal(x.grad.numpy(), 2 * X)
    with pytest.raises(DeviceError, match=r"gradients do not flow from cpu back to cuda:0(.|\n)*test_device.py"):
        (x * 2).to("cpu")
    assert x.detach().cpu().device == "cpu"
    with dlc.no_grad():
        assert x.cpu().device == "cpu"
    with pytest.raises(DeviceError, match="a gradient on cpu"):
        x.grad = dlc.asarray(X)
    with pytest.raises(DeviceError, match=r"cpu: a value cannot move from cuda:0 to cpu while f is traced by jit"):

        @dlc.jit
        def f(y):
            return y.cpu()

        f(x.detach())


def test_transforms():
    x = dlc.asarray(X, device="cuda:1")

    def loss(v):
        assert v.device == "cuda:1"
        return (v * v + dlc.arange(3, device=v.device)).sum()

    np.testing.assert_array_equal(dlc.grad(loss)(x).numpy(), 2 * X)
    np.testing.assert_array_equal(dlc.vmap(loss)(x).numpy(), (X * X + np.arange(3)).sum(1))

    def body(carry, row):
        assert row.device == "cuda:1"
        return carry + row, carry

    total, before = dlc.scan(body, dlc.zeros(3), x)
    assert total.device == before.device == "cuda:1"
    np.testing.assert_array_equal(total.numpy(), X.sum(0))


def test_debug_and_the_interpreter(monkeypatch):
    x = dlc.asarray(X, device="cuda")
    with dlc.debug():
        np.testing.assert_array_equal((x + 1).numpy(), X + 1)
        with pytest.raises(dlc.NaNFound):
            dlc.log(x - 10).numpy()
    monkeypatch.setenv("DLC_INTERPRET", "1")
    out = x * 3
    assert out.realize().device == "cuda:0"
    np.testing.assert_array_equal(out.numpy(), X * 3)


def test_out_of_memory(monkeypatch):
    fake_gpu.use(monkeypatch, fake_gpu.FakeGpu(1, 1 << 20))
    kept = dlc.asarray(np.zeros(150_000, np.float32), device="cuda")
    rest = dlc.asarray(np.zeros((100, 200), np.float32), device="cuda")
    with pytest.raises(OutOfMemory) as error:
        dlc.zeros(200_000, device="cuda").realize()
    text = str(error.value)
    assert "cuda:0 is out of memory: 781.2 KiB were asked for" in text and "buffers; the GPU has 1.0 MiB" in text
    assert text.index("float32[150000] from an array") < text.index("float32[100, 200] from an array")
    assert isinstance(error.value, MemoryError)
    del kept
    assert dlc.ones(200_000, device="cuda").sum().item() == 200_000 and rest.device == "cuda:0"  # the process goes on


def test_forked_children(monkeypatch):
    monkeypatch.setattr(cuda_device, "_owner_pid", -5)
    with pytest.raises(DeviceError, match="does not survive a fork"):
        dlc.zeros(3, device="cuda")


def test_pickles_and_files(tmp_path):
    import copy
    x = dlc.asarray(X, device="cuda")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x)).numpy(), X)
    assert copy.deepcopy(x).device == "cuda:0"
    dlc.save({"x": x}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(dlc.load(tmp_path / "x.safetensors")["x"].numpy(), X)
    with pytest.raises(BufferError):
        x.__dlpack__(dl_device=(2, 1))
    assert x.__dlpack_device__() == (2, 0)
    np.testing.assert_array_equal(np.from_dlpack(_OnCpu(x)), X)


class _OnCpu:
    """What a consumer that wants host memory asks."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**{**options, "dl_device": (1, 0)})

    def __dlpack_device__(self):
        return (1, 0)
