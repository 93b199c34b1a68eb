"""A GPT on text: `python -m models.transformer_lm`; `--preset gpt_char` is six layers of 384 on tiny Shakespeare.

The model is GPT-2 (Radford et al. 2019): `from_hugging_face` reads its published weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import dlc
import dlc.nn.functional as F
from dlc import Tensor, nn, optim
from dlc.data import DataLoader, Windows
from models import language

CLIP = 1.0  # the largest norm of all gradients together
PRESETS = {
    "small": {
        "data": "python", "layers": 4, "heads": 4, "width": 128, "context": 64, "vocabulary": 0, "dropout": 0.0,
        "batch_size": 16, "steps": 3000, "lr": 2e-3, "weight_decay": 0.1,
    },
    "gpt_char": {
        "data": "shakespeare", "layers": 6, "heads": 6, "width": 384, "context": 256, "vocabulary": 0, "dropout": 0.2,
        "batch_size": 64, "steps": 2000, "lr": 1e-3, "weight_decay": 0.1,  # more steps fit the text too well
    },
    "gpt2": {
        "data": "shakespeare", "layers": 12, "heads": 12, "width": 768, "context": 1024, "vocabulary": 50257,
        "dropout": 0.1, "batch_size": 16, "steps": 5000, "lr": 6e-4, "weight_decay": 0.1,
    },
}  # fmt: skip
Cache = list[tuple[Tensor, Tensor]]  # of each layer the keys and the values, (batch, heads, context, width / heads)


class Attention(nn.Module):
    """Causal self-attention, (batch, length, width) to the same."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x, cache=None, position=None):
        """With a cache, x is the one token at `position`, whose key and value are put there."""
        n, length, width = x.shape
        qkv = self.c_attn(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        else:
            keys, values = cache
            keys[:, :, position] = k[:, :, 0]
            values[:, :, position] = v[:, :, 0]
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=dlc.arange(keys.shape[2]) <= position)
        return self.resid_dropout(self.c_proj(y.permute(0, 2, 1, 3).reshape(n, length, width)))


class MLP(nn.Module):
    """Each position by itself: to four times the width, GELU, and back."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """Attention and perceptron, each after a layer norm and added to what it was given."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width, dropout)

    def forward(self, x, cache=None, position=None):
        x = x + self.attn(self.ln_1(x), cache, position)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Tokens (batch, length) to scores (batch, length, vocabulary); the head's weights are those of the embedding."""

    def __init__(self, vocabulary: int, context: int, layers: int, heads: int, width: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"GPT: {heads} heads do not divide the width {width}")
        self.context = context
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.ndim == 2:  # what is added to the residual stream starts smaller
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if "c_proj" in name else 0.02)

    def forward(self, tokens, cache: Cache | None = None, position=None):
        """With a cache (see `empty_cache`), tokens (batch, 1) stand at `position`, and the cache is filled there."""
        places = dlc.arange(tokens.shape[1]) if cache is None else position
        x = self.drop(self.wte(tokens) + self.wpe(places))
        for k, block in enumerate(self.h):
            x = block(x, None if cache is None else cache[k], position)
        return F.linear(self.ln_f(x), self.wte.weight)

    def empty_cache(self, batch: int = 1) -> Cache:
        """Room for the keys and values of a whole context."""
        heads, width = self.h[0].attn.heads, self.wte.embedding_dim
        shape = (batch, heads, self.context, width // heads)
        return [(dlc.zeros(shape), dlc.zeros(shape)) for _ in self.h]


def from_hugging_face(path: str | os.PathLike[str], heads: int | None = None) -> GPT:
    """A GPT-2 from a safetensors file of Hugging Face's `GPT2Model` or `GPT2LMHeadModel`.

    `heads` is width / 64 in all published sizes. Raises dlc.CheckpointError if the file cannot be read, ValueError if
    it holds another model.
    """
    tensors = {name.removeprefix("transformer."): value for name, value in dlc.load(path).items()}
    tensors.pop("lm_head.weight", None)  # the same as wte
    state = {}
    for name, value in tensors.items():
        if re.fullmatch(r"h\.\d+\.attn\.(bias|masked_bias)", name):
            continue  # the causal mask
        # Conv1D keeps its weight as (inputs, outputs), Linear as (outputs, inputs)
        state[name] = value.T if re.search(r"c_(attn|proj|fc)\.weight$", name) else value
    if not {"wte.weight", "wpe.weight"} <= state.keys():
        raise ValueError(f"{path} holds no GPT-2: it has no wte.weight and wpe.weight")
    (vocabulary, width), context = state["wte.weight"].shape, state["wpe.weight"].shape[0]
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("h."))
    model = GPT(vocabulary, context, layers, heads or width // 64, width)
    model.load_state_dict(state)
    return model.eval()


@dlc.jit
def train_step(model, optimizer, x, y):
    loss = loss_of(model, x, y)
    optimizer.zero_grad()
    loss.backward()
    nn.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return loss


@dlc.jit
def evaluate(model, x, y):
    with dlc.no_grad():
        return loss_of(model, x, y)


def loss_of(model: GPT, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross entropy in nats of the tokens y (batch, length) that follow x."""
    scores = model(x)
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1))


@dlc.jit
def next_scores(model, token, position, cache):
    """Scores (vocabulary,) of what follows the token (1, 1) at `position`; the cache has what stands before it."""
    with dlc.no_grad():
        return model(token, cache, position)[0, 0]


@dlc.jit
def window_scores(model, tokens, last):
    """Scores (vocabulary,) of what follows the token number `last` of tokens (1, context)."""
    with dlc.no_grad():
        return model(tokens)[0, last]


def generate(model: GPT, prompt: np.ndarray, temperature: float = 1.0, top_k: int = 0, cached: bool = True
             ) -> Iterator[int]:
    """Tokens that go on from `prompt`, without end. Where the context is full, its later half is kept.

    Without `cached` each token costs a pass over the whole context; the tokens are the same.
    """
    model.eval()
    tokens = [int(token) for token in prompt][-model.context :]
    cache, known = model.empty_cache(), 0  # the cache has the first `known` tokens
    while True:
        if len(tokens) > model.context:
            tokens, known = tokens[-max(1, model.context // 2) :], 0
        if cached:
            for position in range(known, len(tokens)):
                scores = next_scores(model, dlc.asarray([[tokens[position]]]), position, cache)
            known = len(tokens)
        else:
            window = np.zeros((1, model.context), np.int64)
            window[0, : len(tokens)] = tokens
            scores = window_scores(model, dlc.asarray(window), len(tokens) - 1)
        tokens.append(language.choose(scores, temperature, top_k))
        yield tokens[-1]


class Run:
    """Training on windows of the text at random places."""

    def __init__(self, options: dict[str, Any], text: language.Text):
        batch_size, context = options["batch_size"], options["context"]
        sizes = (options[name] for name in ("context", "layers", "heads", "width", "dropout"))
        self.model = GPT(max(options["vocabulary"], len(text.vocabulary)), *sizes)
        self.optimizer = adamw(self.model, options["lr"], options["weight_decay"])
        windows = Windows(text.train, context)
        self.loader = DataLoader(windows, batch_size, shuffle=True, drop_last=True, seed=options["seed"])
        held_out = Windows(text.valid, context, stride=context)
        self.valid = DataLoader(held_out, min(batch_size, len(held_out)), drop_last=True)
        self.carried: dict[str, Tensor] = {}

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        return train_step(self.model, self.optimizer, x, y)

    def evaluate(self) -> float:
        losses = [evaluate(self.model, x, y).item() for x, y in self.valid]
        return float(np.mean(losses))

    def generate(self, prompt: np.ndarray, temperature: float, top_k: int) -> Iterator[int]:
        return generate(self.model, prompt, temperature, top_k)


def adamw(model: nn.Module, lr: float, weight_decay: float) -> optim.Optimizer:
    """AdamW that lets only matrices decay, not biases and norms."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))


def _gpt_char() -> GPT:
    sizes = (PRESETS["gpt_char"][name] for name in ("context", "layers", "heads", "width"))
    return GPT(65, *sizes)  # type: ignore[arg-type]


def example_args_train_step():
    """What `dlc dump models/transformer_lm.py:train_step` compiles for: gpt_char without dropout, four windows."""
    model = _gpt_char()
    tokens = dlc.zeros(4, model.context, dtype=dlc.int64)
    return model, adamw(model, 1e-3, 0.1), tokens, tokens


def example_args_evaluate():
    model, _, x, y = example_args_train_step()
    return model.eval(), x, y


def example_args_next_scores():
    model = _gpt_char().eval()
    return model, dlc.zeros(1, 1, dtype=dlc.int64), 0, model.empty_cache()


def example_args_window_scores():
    model = _gpt_char().eval()
    return model, dlc.zeros(1, model.context, dtype=dlc.int64), 0


if __name__ == "__main__":
    language.command(PRESETS, Run)()
