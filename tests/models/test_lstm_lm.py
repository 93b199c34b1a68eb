"""The recurrent language models: equality with PyTorch, exact resumption, segments, sampling, the command."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from models import lstm_lm
from models.lstm_lm import LanguageModel, Run, generate
from tests.models.language_checks import assert_gradients_close, check_command, check_resumes_exactly, common, text

OPTIONS = common(embedding=8, hidden=16, layers=2, batch_size=6, length=20, steps=12)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_equals_torch(cell: str):
    torch = pytest.importorskip("torch")
    dlc.manual_seed(0)
    model = LanguageModel(11, 6, 8, 2, cell=cell)

    class Reference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(11, 6)
            self.rnn = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell](6, 8, 2)
            self.head = torch.nn.Linear(8, 11)

        def forward(self, tokens, state):
            out, state = self.rnn(self.embedding(tokens), state)
            return self.head(out), state

    reference = Reference()
    reference.load_state_dict({k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()})
    rng = np.random.default_rng(0)
    x, y = rng.integers(11, size=(2, 5, 3))
    start = [rng.standard_normal((2, 3, 8), np.float32) for _ in range(2 if cell == "lstm" else 1)]
    state = tuple(map(dlc.asarray, start)) if cell == "lstm" else dlc.asarray(start[0])
    their_state = tuple(map(torch.tensor, start)) if cell == "lstm" else torch.tensor(start[0])

    scores, state = model(dlc.asarray(x), state)
    theirs, their_state = reference(torch.tensor(x), their_state)
    np.testing.assert_allclose(scores.numpy(), theirs.detach().numpy(), rtol=1e-4, atol=1e-5)
    their_leaves = their_state if cell == "lstm" else [their_state]
    for ours, other in zip(dlc.tree_leaves(state), their_leaves, strict=True):
        np.testing.assert_allclose(ours.numpy(), other.detach().numpy(), rtol=1e-4, atol=1e-5)

    F.cross_entropy(scores.reshape(-1, 11), dlc.asarray(y.reshape(-1))).backward()
    torch.nn.functional.cross_entropy(theirs.reshape(-1, 11), torch.tensor(y.reshape(-1))).backward()
    assert_gradients_close(model, reference)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_loss_falls(cell: str):
    dlc.manual_seed(0)
    run = Run(OPTIONS | {"dropout": 0.0}, text(), cell)
    x, y = next(iter(run.loader))
    first, second = (run.step(x, y).item() for _ in range(2))
    assert second < first


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_interrupted_and_resumed_equals_uninterrupted(cell: str, tmp_path: Path):
    check_resumes_exactly(partial(Run, cell=cell), OPTIONS, tmp_path)


def test_the_state_is_carried_and_begins_again_with_the_text():
    run = Run(OPTIONS, text())
    for k, (x, y) in enumerate(run.loader, 1):
        run.step(x, y)
        carried = [float(np.abs(cell.numpy()).sum()) for cell in run.carried.values()]
        assert len(carried) == 2
        assert all(c == 0 for c in carried) if k == len(run.loader) else all(c > 0 for c in carried)
    assert k == len(run.loader) == 8


def test_segments_with_the_state_equal_the_whole_sequence():
    dlc.manual_seed(0)
    model = LanguageModel(11, 6, 8, 2).eval()
    tokens = np.random.default_rng(0).integers(11, size=(6, 3))
    whole, _ = model(dlc.asarray(tokens), model.start(3))
    first, state = model(dlc.asarray(tokens[:4]), model.start(3))
    second, _ = model(dlc.asarray(tokens[4:]), state)
    np.testing.assert_allclose(dlc.concat([first, second]).numpy(), whole.numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped():
    dlc.manual_seed(0)
    run = Run(OPTIONS | {"dropout": 0.0}, text())
    run.model.head.weight.assign(run.model.head.weight * 100)
    x, y = next(iter(run.loader))
    run.step(x, y)
    norm = np.sqrt(sum(float((p.grad.numpy() ** 2).sum()) for p in run.model.parameters()))
    assert norm == pytest.approx(lstm_lm.CLIP, rel=1e-4)


def test_sampling():
    dlc.manual_seed(0)
    model = LanguageModel(11, 6, 8, 2)
    prompt = np.array([3, 1, 4])

    def tokens(**how) -> list[int]:
        dlc.manual_seed(7)
        return list(itertools.islice(generate(model, prompt, **how), 12))

    # greedy: each token is the likeliest after all those before it
    greedy = tokens(temperature=0)
    whole, _ = model(dlc.asarray(np.array([*prompt, *greedy])[:, None]), model.start(1))
    assert dlc.argmax(whole[2:-1, 0], axis=-1).numpy().tolist() == greedy
    assert tokens(top_k=1) == tokens(temperature=1e-4) == greedy
    assert tokens() == tokens() and len(set(tokens(temperature=5.0))) > 3


def test_command(tmp_path: Path):
    sizes = ("--embedding", "6", "--hidden", "8", "--batch-size", "4", "--length", "10")
    check_command(lstm_lm.PRESETS, partial(Run, cell="gru"), tmp_path, *sizes)
