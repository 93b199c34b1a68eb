"""RNN, LSTM and GRU against PyTorch."""

import pytest

import dlc
from dlc import nn
from tests.nn.against_torch import normal, same_module, torch

T, B, N, H = 5, 3, 4, 6

SETTINGS = [
    {}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False},
]  # fmt: skip
KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("GRU", {})]


@pytest.mark.parametrize(("name", "extra"), KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_outputs_and_gradients(name, extra, settings):
    both = settings | extra
    ours, theirs = getattr(nn, name)(N, H, **both), getattr(torch.nn, name)(N, H, **both)
    same_module(ours, theirs, [normal(T, B, N)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("form", ["batch_first", "unbatched"])
def test_forms_with_a_given_state(name, form):
    settings = {"num_layers": 2, "bidirectional": True, "batch_first": form == "batch_first"}
    ours, theirs = getattr(nn, name)(N, H, **settings), getattr(torch.nn, name)(N, H, **settings)
    x = normal(B, T, N) if form == "batch_first" else normal(T, N)
    states = [normal(4, B, H, seed=k) if form == "batch_first" else normal(4, H, seed=k) for k in (1, 2)]
    if name != "LSTM":
        same_module(ours, theirs, [x, states[0]], rtol=1e-4, atol=1e-5)
        return
    pack = _Packed(ours), _TorchPacked(theirs)
    same_module(*pack, [x, *states], rtol=1e-4, atol=1e-5)


class _Packed(nn.Module):
    """Takes the two parts of the state one by one."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, h, c):
        return self.net(x, (h, c))


class _TorchPacked(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, h, c):
        return self.net(x, (h, c))


def test_dropout_acts_between_layers_in_training():
    net = nn.LSTM(N, H, num_layers=2, dropout=0.5)
    x = dlc.asarray(normal(T, B, N))
    a, b = net(x)[0].numpy(), net(x)[0].numpy()
    assert (a != b).any()
    net.eval()
    assert (net(x)[0].numpy() == net(x)[0].numpy()).all()
    with pytest.warns(UserWarning, match="with one layer it does nothing"):
        nn.GRU(N, H, dropout=0.5)


def test_one_matmul_for_all_inputs():
    """The scan's body holds the recurrent product alone."""
    net = nn.LSTM(N, H)
    x = dlc.asarray(normal(T, B, N))

    @dlc.jit
    def run(x):
        return net(x)[0]

    graph = run.graph(x)
    outside = [n for n in graph.nodes() if n.op == "contract"]
    (scan,) = [n for n in graph.nodes() if n.op == "scan"]
    inside = [n for n in scan.attrs["body"].nodes() if n.op == "contract"]
    assert len(outside) == 1
    assert len(inside) == 1


def test_errors():
    with pytest.raises(dlc.ShapeError, match=r"LSTM: input is \(T, B, 4\) or \(T, 4\), got \(5, 3, 7\)"):
        nn.LSTM(N, H)(dlc.zeros((T, B, 7)))
    with pytest.raises(dlc.ShapeError, match=r"state is \(1, 3, 6\)"):
        nn.GRU(N, H)(dlc.zeros((T, B, N)), dlc.zeros((1, 2, H)))
    with pytest.raises(ValueError, match="'tanh' or 'relu', not 'sin'"):
        nn.RNN(N, H, nonlinearity="sin")
