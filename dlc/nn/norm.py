"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

import dlc
from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.module import Module, Parameter


class _BatchNorm(Module):
    """Standardises each channel: by the batch in training, by the running statistics in evaluation.

    running = (1 - momentum) running + momentum batch's (unbiased variance); `momentum=None` averages over all batches
    seen. Without running statistics (`track_running_stats=False`) the batch's serve in both modes.
    """

    _dims: tuple[int, ...]

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(init.ones((num_features,), dtype)) if affine else None
        self.bias = Parameter(init.zeros((num_features,), dtype)) if affine else None
        track = track_running_stats
        self.register_buffer("running_mean", Tensor(init.zeros((num_features,), dtype)) if track else None)
        self.register_buffer("running_var", Tensor(init.ones((num_features,), dtype)) if track else None)
        self.register_buffer("num_batches_tracked", Tensor(0, dlc.int64) if track else None)

    def reset_parameters(self) -> None:
        """Running statistics and the affine map as they were at the start."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            self.num_batches_tracked.assign(0)
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self._dims or input.shape[1] != self.num_features:
            raise dlc.ShapeError(
                f"{type(self).__name__}: needs {' or '.join(map(str, self._dims))} dimensions with {self.num_features} "
                f"channels in the second, got {tuple(input.shape)}"
            )
        momentum = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            if momentum is None:
                momentum = 1.0 / dlc.astype(self.num_batches_tracked, dlc.float32)
        use_batch = self.training or not self.track_running_stats
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, use_batch, momentum, self.eps
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Input (N, C) or (N, C, L). See `_BatchNorm`."""

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Input (N, C, H, W). See `_BatchNorm`."""

    _dims = (4,)


class LayerNorm(Module):
    """Standardises over the last axes, of shape `normalized_shape`; weight and bias have that shape."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(init.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes; `eps` is the dtype's epsilon if None."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True,
        dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Input (N, C, ...): each sample standardised over each of `num_groups` groups of channels; weight, bias (C,)."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype=None):
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_groups} groups do not divide {num_channels} channels")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(init.ones((num_channels,), dtype)) if affine else None
        self.bias = Parameter(init.zeros((num_channels,), dtype)) if affine else None

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise dlc.ShapeError(f"GroupNorm: needs {self.num_channels} channels in axis 1, got {tuple(input.shape)}")
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
