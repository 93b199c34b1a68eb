"""A recurrent language model: `python -m models.lstm_lm` (also `gru_lm`, `rnn_lm`), on characters or on words.

`--preset shakespeare` is two layers of 512 on tiny Shakespeare, `--preset ptb` a word model on Penn Treebank.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import Tensor, nn, optim
from dlc.data import DataLoader, DatasetError, time_steps
from models import language

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CLIP = 1.0  # the largest norm of all gradients together
PRESETS = {
    "small": {
        "data": "python", "embedding": 64, "hidden": 384, "layers": 1, "dropout": 0.0, "batch_size": 32, "length": 64,
        "steps": 2500, "lr": 3e-3,
    },
    "shakespeare": {
        "data": "shakespeare", "embedding": 128, "hidden": 512, "layers": 2, "dropout": 0.3, "batch_size": 64,
        "length": 128, "steps": 1500, "lr": 2e-3,
    },
    "ptb": {
        "data": "ptb-small", "embedding": 200, "hidden": 200, "layers": 2, "dropout": 0.4, "batch_size": 20,
        "length": 35, "steps": 1200, "lr": 4e-3,
    },
}  # fmt: skip


class LanguageModel(nn.Module):
    """Tokens (length, batch) and a state to scores (length, batch, vocabulary) and the next state."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, layers: int, dropout: float = 0.0,
                 cell: str = "lstm"):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = CELLS[cell](embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens, state):
        out, state = self.rnn(self.embedding(tokens), state)
        return self.head(self.dropout(out)), state

    def start(self, batch: int) -> Tensor | tuple[Tensor, Tensor]:
        """The state before the first token: zeros (layers, batch, hidden), for an LSTM two of them."""
        shape = (self.rnn.num_layers, batch, self.rnn.hidden_size)
        return (dlc.zeros(shape), dlc.zeros(shape)) if isinstance(self.rnn, nn.LSTM) else dlc.zeros(shape)


@dlc.jit
def train_step(model, optimizer, x, y, state):
    scores, state = model(x, state)
    loss = F.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    nn.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return loss, dlc.stop_gradient(state)


@dlc.jit
def evaluate(model, x, y, state):
    with dlc.no_grad():
        scores, state = model(x, state)
        return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1)), state


@dlc.jit
def next_scores(model, token, state):
    with dlc.no_grad():
        scores, state = model(token, state)
        return scores[0, 0], state


def generate(model: LanguageModel, prompt: np.ndarray, temperature: float = 1.0, top_k: int = 0) -> Iterator[int]:
    """Tokens that go on from `prompt`, without end."""
    model.eval()
    state = model.start(1)
    for token in prompt:
        scores, state = next_scores(model, dlc.asarray([[int(token)]]), state)
    while True:
        token = language.choose(scores, temperature, top_k)
        yield token
        scores, state = next_scores(model, dlc.asarray([[token]]), state)


class Run:
    """Training on segments of the text, each with the state that the one before it left."""

    def __init__(self, options: dict[str, Any], text: language.Text, cell: str = "lstm"):
        self.batch_size, length = options["batch_size"], options["length"]
        sizes = (options[name] for name in ("embedding", "hidden", "layers", "dropout"))
        self.model = LanguageModel(len(text.vocabulary), *sizes, cell)
        self.optimizer = optim.Adam(self.model.parameters(), lr=options["lr"])
        steps = time_steps(text.train, self.batch_size)
        self.loader = DataLoader(steps, length, drop_last=True, seed=options["seed"])
        if len(text.valid) <= length:
            raise DatasetError(f"{len(text.valid)} held-out tokens are too few for segments of {length}")
        columns = min(self.batch_size, (len(text.valid) - 1) // length)
        self.valid = DataLoader(time_steps(text.valid, columns), length, drop_last=True)
        self.columns = columns
        self.state = self.model.start(self.batch_size)
        self.carried = {str(k): cell for k, cell in enumerate(dlc.tree_leaves(self.state))}

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        loss, state = train_step(self.model, self.optimizer, x, y, self.state)
        if self.loader.state_dict()["batch"] == 0:  # the text is read to its end and begins again
            state = self.model.start(self.batch_size)
        for cell, value in zip(self.carried.values(), dlc.tree_leaves(state), strict=True):
            cell.assign(value)
        return loss

    def evaluate(self) -> float:
        losses, state = [], self.model.start(self.columns)
        for x, y in self.valid:
            loss, state = evaluate(self.model, x, y, state)
            losses.append(loss.item())
        return float(np.mean(losses))

    def generate(self, prompt: np.ndarray, temperature: float, top_k: int) -> Iterator[int]:
        return generate(self.model, prompt, temperature, top_k)


def example_args_train_step():
    """What `dlc dump models/lstm_lm.py:train_step` compiles for: a segment of characters."""
    model = LanguageModel(65, 64, 384, 1)
    tokens = dlc.zeros(64, 32, dtype=dlc.int64)
    return model, optim.Adam(model.parameters()), tokens, tokens, model.start(32)


def example_args_evaluate():
    model, _, *rest = example_args_train_step()
    return model.eval(), *rest


def example_args_next_scores():
    model = LanguageModel(65, 64, 384, 1).eval()
    return model, dlc.zeros(1, 1, dtype=dlc.int64), model.start(1)


def main(cell: str = "lstm") -> None:
    language.command(PRESETS, partial(Run, cell=cell))()


if __name__ == "__main__":
    main()
