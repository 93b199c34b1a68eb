"""Padding and sliding windows: the views of which convolution and pooling are made."""

from __future__ import annotations

from collections.abc import Sequence

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors


def window(
    x: Tensor, axes: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """All windows over `axes`, which become window counts; the taps are appended last, in the order of `axes`.

    Window w of an axis has the elements w * stride + tap * dilation. Every axis must be as long as a window.
    """
    return dlc.windows(x, axes, sizes, strides, dilations)


def pad_axes(x: Tensor, axes: Sequence[int], pairs: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Constant padding of `axes` by (before, after); a negative number crops."""
    if not any(before or after for before, after in pairs):
        return x
    widths = [(0, 0)] * x.ndim
    crops = [slice(None)] * x.ndim
    for axis, (before, after) in zip(axes, pairs, strict=True):
        widths[axis] = (max(before, 0), max(after, 0))
        crops[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
    if any(c != slice(0, x.shape[k]) for k, c in enumerate(crops) if c != slice(None)):
        x = x[tuple(crops)]
    return dlc.pad(x, widths, constant_values=value) if any(map(any, widths)) else x


def spread_axes(x: Tensor, axes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """stride - 1 zeros put between neighbours along `axes`: extent n becomes (n - 1) * stride + 1."""
    return dlc.dilate(x, axes, strides) if any(s > 1 for s in strides) else x


@user_errors
def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """PyTorch's padding: `pad` is (before, after) of the last axis, then of the one before it, and so on.

    Modes: 'constant' (negative numbers crop), 'reflect', 'replicate', 'circular'. `dlc.pad` takes NumPy's order.
    """
    pad = list(pad)
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: {pad} is not pairs (before, after) for at most {input.ndim} axes")
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    axes = [input.ndim - 1 - k for k in range(len(pairs))]
    if mode == "constant":
        return pad_axes(input, axes, pairs, 0.0 if value is None else value)
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in modes:
        raise ValueError(f"pad: mode is 'constant', {', '.join(map(repr, modes))}, not {mode!r}")
    widths = [(0, 0)] * input.ndim
    for axis, pair in zip(axes, pairs, strict=True):
        widths[axis] = pair
    return dlc.pad(input, widths, mode=modes[mode])
