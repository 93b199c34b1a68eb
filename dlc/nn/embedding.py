"""Embedding tables."""

from __future__ import annotations

from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.functional.linear import check_padding_idx
from dlc.nn.module import Module, Parameter


class Embedding(Module):
    """A table of `num_embeddings` vectors: integers of shape S -> (S, embedding_dim).

    weight starts as N(0, 1). The row `padding_idx` starts at zero and gets no gradient.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype=None):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = None if padding_idx is None else check_padding_idx(padding_idx, num_embeddings)
        self.weight = Parameter(init.empty((num_embeddings, embedding_dim), dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight, zero_row=self.padding_idx)

    @classmethod
    def from_pretrained(cls, embeddings, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """A table with the given (num_embeddings, embedding_dim) values, not trained if `freeze`."""
        out = cls(*embeddings.shape, padding_idx=padding_idx)
        out.weight = Parameter(embeddings, requires_grad=not freeze)
        return out

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
