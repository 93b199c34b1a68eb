"""Convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.functional.sizes import per_axis, same_padding
from dlc.nn.module import Module, Parameter

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Conv(Module):
    """What the convolutions share: arguments, parameters and their start."""

    _n: int  # spatial axes
    _transposed = False

    def __init__(
        self, in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
        padding_mode, dtype,
    ):  # fmt: skip
        super().__init__()
        name, n = type(self).__name__, self._n
        for what, count in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            if not isinstance(count, (int, np.integer)):
                raise TypeError(f"{name}: {what} is an integer, not {count!r}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: {groups} groups do not divide {in_channels} and {out_channels} channels")
        if padding_mode not in _PADDING_MODES[: 1 if self._transposed else None]:
            raise ValueError(f"{name}: unknown padding_mode {padding_mode!r}")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{name}: padding is a number, 'same' or 'valid', not {padding!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n, 1)
        self.stride = per_axis(name, "stride", stride, n, 1)
        self.padding = padding if isinstance(padding, str) else per_axis(name, "padding", padding, n)
        self.dilation = per_axis(name, "dilation", dilation, n, 1)
        self.output_padding = per_axis(name, "output_padding", output_padding, n)
        self.groups, self.padding_mode = groups, padding_mode
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"{name}: padding='same' needs stride 1, not {self.stride}")
        lead = (in_channels, out_channels // groups) if self._transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(init.empty((*lead, *self.kernel_size), dtype))
        self.bias = Parameter(init.empty((out_channels,), dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight and bias uniform in +-1/sqrt(fan_in)."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            init.fan_in_uniform_(self.bias, self.weight)

    def _border(self, input: Tensor) -> tuple[Tensor, object]:
        """(the input padded by its own elements where the mode asks for it, the padding left to do)."""
        if self.padding_mode == "zeros":
            return input, self.padding
        if self.padding == "valid":
            return input, 0
        pairs = (
            same_padding(self.kernel_size, self.dilation)
            if self.padding == "same"
            else [(p, p) for p in self.padding]
        )
        return F.pad(input, [p for pair in reversed(pairs) for p in pair], mode=self.padding_mode), 0

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        n = self._n
        for name, usual in (("padding", 0), ("dilation", 1), ("output_padding", 0)):
            value = getattr(self, name)
            if value != (usual,) * n:
                parts.append(f"{name}={value!r}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Convolution(_Conv):
    _function: Callable[..., Tensor]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1, groups: int = 1,
        bias: bool = True, padding_mode: str = "zeros", dtype=None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        x, padding = self._border(input)
        return self._function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(_Convolution):
    """(N, C, L) or (C, L) -> (N, O, L') or (O, L'); weight (O, C/groups, K), bias (O,)."""

    _n, _function = 1, staticmethod(F.conv1d)


class Conv2d(_Convolution):
    """(N, C, H, W) or (C, H, W) -> (N, O, H', W') or (O, H', W'); weight (O, C/groups, KH, KW), bias (O,).

    `padding` is a number, a pair, 'valid' or 'same'; `padding_mode` zeros, reflect, replicate or circular.
    """

    _n, _function = 2, staticmethod(F.conv2d)


class _Transposed(_Conv):
    _transposed = True
    _function: Callable[..., Tensor]

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, output_padding=0,
        groups: int = 1, bias: bool = True, dilation=1, padding_mode: str = "zeros", dtype=None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        return self._function(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose1d(_Transposed):
    """(N, C, L) -> (N, O, (L-1) stride - 2 padding + dilation (K-1) + output_padding + 1); weight (C, O/groups, K)."""

    _n, _function = 1, staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_Transposed):
    """The adjoint of Conv2d: (N, C, H, W) -> (N, O, H', W'); weight (C, O/groups, KH, KW), bias (O,).

    H' = (H-1) stride - 2 padding + dilation (KH-1) + output_padding + 1, likewise W'.
    """

    _n, _function = 2, staticmethod(F.conv_transpose2d)
