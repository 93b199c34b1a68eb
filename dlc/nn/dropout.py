"""Dropout layers: active in training, the identity in evaluation."""

from __future__ import annotations

from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn.functional.dropout import check_probability
from dlc.nn.module import Module


class _Dropout(Module):
    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = check_probability(type(self).__name__, p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """Each element is 0 with probability `p`, else divided by 1 - p."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training)


class Dropout1d(_Dropout):
    """Drops whole channels of (N, C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training)


class Dropout2d(_Dropout):
    """Drops whole channels of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training)
