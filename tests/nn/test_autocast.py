"""Layers, losses and training under autocast: dtypes as in PyTorch, numbers within the half type's error."""

from functools import partial

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn, optim
from tests.nn.against_torch import normal, torch


def t(*shape, dtype=None, grad=False, seed=0):
    return dlc.tensor(normal(*shape, seed=seed), dtype=dtype, requires_grad=grad)


def near(got, want, error=0.03):
    """Within `error` of the largest element: a few roundings to bfloat16 (0.4 % each)."""
    got = got.astype(dlc.float32).numpy()
    assert got.shape == want.shape
    assert np.abs(got - want.numpy()).max() <= error * max(np.abs(want.numpy()).max(), 1e-3)


def attention(x, w):
    q, k, v = dlc.chunk(F.linear(x, w), 3, axis=-1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


CONTRACTIONS = {
    "linear": (F.linear, [(5, 8), (3, 8), (3,)]),
    "bilinear": (F.bilinear, [(5, 4), (5, 3), (2, 4, 3), (2,)]),
    "conv1d": (F.conv1d, [(2, 3, 9), (4, 3, 3), (4,)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(2, 3, 6, 6), (4, 3, 3, 3), (4,)]),
    "grouped": (lambda x, w, b: F.conv2d(x, w, b, groups=2), [(2, 4, 5, 5), (4, 2, 3, 3), (4,)]),
    "transposed": (lambda x, w, b: F.conv_transpose2d(x, w, b, 2), [(2, 3, 4, 4), (3, 4, 2, 2), (4,)]),
    "attention": (attention, [(2, 6, 8), (24, 8)]),
}


@pytest.mark.parametrize("half", [dlc.bfloat16, dlc.float16])
@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions_are_half_and_near_float32(name, half):
    function, shapes = CONTRACTIONS[name]
    found = []
    for on in (True, False):
        operands = [t(*shape, grad=True, seed=k) for k, shape in enumerate(shapes)]
        with dlc.autocast(half, enabled=on):
            out = function(*operands)
        assert out.dtype is (half if on else dlc.float32)
        dlc.sum(out * t(*out.shape, seed=7)).backward()
        assert all(x.grad.dtype is dlc.float32 for x in operands)
        found.append([out, *(x.grad for x in operands)])
    for got, want in zip(*found, strict=True):
        near(got, want)


NORMS = {
    "layer_norm": lambda x: F.layer_norm(x, (8,), t(8), t(8, seed=1)),
    "rms_norm": lambda x: F.rms_norm(x, (8,), t(8)),
    "group_norm": lambda x: F.group_norm(x, 2, t(6), t(6, seed=1)),
    "batch_norm": lambda x: F.batch_norm(x, None, None, t(6), t(6, seed=1), training=True),
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_compute_in_float32_and_give_the_inputs_dtype(name):
    x = t(4, 6, 8) + 100.0  # in bfloat16 the squares would lose everything
    h = x.astype(dlc.bfloat16)
    exact = NORMS[name](h.astype(dlc.float32))
    with dlc.autocast():
        out, single = NORMS[name](h), NORMS[name](x)
    assert (out.dtype, single.dtype) == (dlc.bfloat16, dlc.float32)
    near(out, exact, 0.005)
    np.testing.assert_allclose(single.numpy(), NORMS[name](x).numpy(), rtol=1e-6)


def test_running_statistics_stay_float32():
    norm = nn.BatchNorm2d(3)
    with dlc.autocast():
        out = norm(nn.Conv2d(3, 3, 3)(t(2, 3, 6, 6)))
    assert out.dtype is dlc.bfloat16
    assert norm.running_mean.dtype is norm.running_var.dtype is dlc.float32
    assert np.abs(norm.running_mean.numpy()).max() > 0


LOSSES = {
    "cross_entropy": lambda f, x, y: f.cross_entropy(x, y),
    "nll_loss": lambda f, x, y: f.nll_loss(x, y),
    "mse_loss": lambda f, x, y: f.mse_loss(x, x * 0.5),
    "l1_loss": lambda f, x, y: f.l1_loss(x, x * 0.5),
    "smooth_l1_loss": lambda f, x, y: f.smooth_l1_loss(x, x * 0.5),
    "huber_loss": lambda f, x, y: f.huber_loss(x, x * 0.5),
    "bce_with_logits": lambda f, x, y: f.binary_cross_entropy_with_logits(x, x * x),
    "bce": lambda f, x, y: f.binary_cross_entropy(x * x / 16, x * x / 16),
    "kl_div": lambda f, x, y: f.kl_div(x, x * x, reduction="batchmean"),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32(name, reduction):
    h, y = t(6, 5, dtype=dlc.bfloat16, grad=True), dlc.arange(6) % 5
    kind = {} if name in ("kl_div",) else {"reduction": reduction}
    loss = {"cross_entropy": lambda x: F.cross_entropy(x, y, **kind), "nll_loss": lambda x: F.nll_loss(x, y, **kind)}
    function = loss.get(name, lambda x: LOSSES[name](F, x, y))
    assert function(h).dtype is dlc.bfloat16
    with dlc.autocast():
        out = function(h)
    assert out.dtype is dlc.float32
    if name in loss:
        np.testing.assert_allclose(out.numpy(), function(h.astype(dlc.float32)).numpy(), rtol=1e-5, atol=1e-6)
    out.sum().backward()
    assert h.grad.dtype is dlc.bfloat16


RECURRENT = {
    "lstm": lambda: nn.LSTM(6, 8, num_layers=2), "gru": lambda: nn.GRU(6, 8, bidirectional=True),
    "rnn": lambda: nn.RNN(6, 8), "bare": lambda: nn.GRU(6, 8, bias=False),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name):
    layer, x = RECURRENT[name](), t(5, 3, 6)
    found = []
    for on in (True, False):
        layer.zero_grad()
        with dlc.autocast(enabled=on):
            out, last = layer(x)
        assert out.dtype is (dlc.bfloat16 if on else dlc.float32)
        state = last if isinstance(last, tuple) else (last,)
        assert all(part.dtype is dlc.float32 for part in state)  # a long sequence needs it
        dlc.sum(out * t(*out.shape, seed=3)).backward()
        found.append([out, *state, *(p.grad for p in layer.parameters())])
        assert all(p.grad.dtype is dlc.float32 for p in layer.parameters())
    for got, want in zip(*found, strict=True):
        near(got, want, 0.05)


def test_a_half_input_does_not_make_a_half_state():
    with dlc.autocast():
        out, (h, c) = nn.LSTM(6, 8)(t(5, 3, 6, dtype=dlc.bfloat16))
        _, h16 = nn.GRU(6, 8)(t(5, 3, 6), dlc.zeros(1, 3, 8, dtype=dlc.bfloat16))
    assert (out.dtype, h.dtype, c.dtype, h16.dtype) == (dlc.bfloat16, dlc.float32, dlc.float32, dlc.bfloat16)


def test_pooling_and_resizing_are_not_contractions():
    x = t(1, 2, 7, 7)
    for function in (lambda x: F.adaptive_avg_pool2d(x, 3), lambda x: F.interpolate(x, (9, 9), mode="bilinear"),
                     lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")):
        with dlc.autocast():
            out = function(x)
        assert out.dtype is dlc.float32
        np.testing.assert_allclose(out.numpy(), function(x).numpy(), rtol=1e-6, atol=1e-6)


def test_modules_attention_and_embedding():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.1, norm_first=True)
    embed = nn.Embedding(11, 8)
    tokens = dlc.arange(12).reshape(6, 2) % 11
    with dlc.autocast():
        assert embed(tokens).dtype is dlc.float32
        out = layer(embed(tokens))
        assert out.dtype is dlc.float32  # the residual connection
        assert layer.self_attn(out, out, out)[0].dtype is dlc.bfloat16
    out.sum().backward()
    assert all(p.grad.dtype is p.dtype is dlc.float32 for p in (*layer.parameters(), *embed.parameters()))


# --- training ----------------------------------------------------------------------------------------------------


def network():
    dlc.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 16, 24), nn.GELU(), nn.LayerNorm(24), nn.Dropout(0.0), nn.Linear(24, 4),
    )  # fmt: skip


def losses(on, steps, jit):
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    x, y = t(32, 1, 8, 8), dlc.arange(32) % 4

    def step(x, y):
        optimizer.zero_grad()
        with dlc.autocast(enabled=on):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
        assert logits.dtype is (dlc.bfloat16 if on else dlc.float32) and loss.dtype is dlc.float32
        loss.backward()
        optimizer.step()
        return loss

    if jit:
        step = dlc.jit(step)
    out = [step(x, y).item() for _ in range(steps)]
    for state in (model.state_dict(), {k: p.grad for k, p in model.named_parameters()}):
        assert all(v.dtype is dlc.float32 for v in state.values() if v.dtype.is_float)
    assert all(v.dtype.is_float is False or v.dtype is dlc.float32
               for v in dlc.tree_leaves(optimizer.state_dict()) if isinstance(v, dlc.Tensor))  # fmt: skip
    return np.array(out)


def test_training_falls_as_in_float32(way):
    compiled = way == "compiled"
    steps = 12 if compiled else 5
    half, single = losses(True, steps, compiled), losses(False, steps, compiled)
    assert 0 < np.abs(half - single).max() < 0.05
    assert half[-1] < half[0] * (0.5 if compiled else 0.9)
    if compiled:
        np.testing.assert_allclose(losses(True, 3, False), half[:3], atol=0.01)  # without jit


# --- PyTorch -----------------------------------------------------------------------------------------------------

# (nn, nn.functional of either library, x float32, the same in bfloat16, classes) -> result
SAME = {
    "matmul": lambda m, f, x, h, y: x @ x.T,
    "half matmul": lambda m, f, x, h, y: h @ x.T,
    "linear": lambda m, f, x, h, y: f.linear(x, x, x[:, 0]),
    "Linear": lambda m, f, x, h, y: m.Linear(6, 3)(h),
    "conv1d": lambda m, f, x, h, y: f.conv1d(x[None], x[:, :, None], x[:, 0]),
    "conv_transpose1d": lambda m, f, x, h, y: f.conv_transpose1d(x[None], x[:, :, None]),
    "attention": lambda m, f, x, h, y: f.scaled_dot_product_attention(x[None], x[None], x[None]),
    "softmax": lambda m, f, x, h, y: f.softmax(h, -1),
    "softmax of float32": lambda m, f, x, h, y: f.softmax(x, -1),
    "log_softmax": lambda m, f, x, h, y: f.log_softmax(h, -1),
    "LayerNorm": lambda m, f, x, h, y: m.LayerNorm(6)(h),
    "BatchNorm1d": lambda m, f, x, h, y: m.BatchNorm1d(6)(h),
    "BatchNorm1d of float32": lambda m, f, x, h, y: m.BatchNorm1d(6)(x),
    "GroupNorm": lambda m, f, x, h, y: m.GroupNorm(2, 6)(h[:, :, None]),
    "rms_norm": lambda m, f, x, h, y: f.rms_norm(h, (6,)),
    "relu": lambda m, f, x, h, y: f.relu(h),
    "gelu": lambda m, f, x, h, y: f.gelu(h),
    "prelu": lambda m, f, x, h, y: f.prelu(h, x[:1, 0]),
    "add": lambda m, f, x, h, y: x + h,
    "scale": lambda m, f, x, h, y: h * 2.5,
    "mean": lambda m, f, x, h, y: h.mean(),
    "embedding": lambda m, f, x, h, y: f.embedding(y, x),
    "dropout": lambda m, f, x, h, y: f.dropout(h, 0.5),
    "max_pool1d": lambda m, f, x, h, y: f.max_pool1d(h[None], 2),
    "adaptive_avg_pool1d": lambda m, f, x, h, y: f.adaptive_avg_pool1d(x[None], 4),
    "interpolate": lambda m, f, x, h, y: f.interpolate(x[None], 5, mode="linear"),
    "LSTM": lambda m, f, x, h, y: m.LSTM(6, 4)(x[None])[0],
    "residual": lambda m, f, x, h, y: x + m.Linear(6, 6)(x),
}


def _loss(loss, m, f, x, h, y):
    return loss(f, h, y)


def test_result_dtypes_are_pytorchs():
    x, y = np.abs(normal(6, 6)) % 1, np.arange(6)
    same = SAME | {name: partial(_loss, loss) for name, loss in LOSSES.items()}
    ours = (nn, F, dlc.tensor(x), dlc.tensor(x).astype(dlc.bfloat16), dlc.tensor(y))
    theirs = (torch.nn, torch.nn.functional, torch.tensor(x), torch.tensor(x).bfloat16(), torch.tensor(y))
    with dlc.autocast(dlc.bfloat16), torch.autocast("cpu", torch.bfloat16):
        got = {name: function(*ours).dtype.name for name, function in same.items()}
        want = {name: str(function(*theirs).dtype).removeprefix("torch.") for name, function in same.items()}
    assert got == want
