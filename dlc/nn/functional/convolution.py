"""Convolutions, each a sum of products over a sliding window.

    x (N, G, C/G, *spatial) --pad--> --window--> (N, G, C/G, *out, *taps),  weight (G, O/G, C/G, *taps)
    out[n, g, o, *p] = sum over c and taps of window[n, g, c, *p, *taps] * weight[g, o, c, *taps]

Strides and dilations belong to the window, groups are the axis G (left out where there is one). A transposed
convolution is the adjoint map, written as a convolution of the input with zeros put between its elements.
"""

from __future__ import annotations

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import beside
from dlc.nn.functional.sizes import per_axis, same_padding
from dlc.nn.functional.window import pad_axes, spread_axes, window

_POSITIONS, _TAPS = "xyz", "uvw"


@user_errors
def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups: int = 1
) -> Tensor:
    """input (N, C, L) or (C, L), weight (O, C/groups, K), bias (O,) -> (N, O, L') or (O, L').

    `padding` is a number, 'valid' (none) or 'same' (needs stride 1).
    """
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@user_errors
def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, dilation=1, groups: int = 1
) -> Tensor:
    """input (N, C, H, W) or (C, H, W), weight (O, C/groups, KH, KW), bias (O,) -> (N, O, H', W') or (O, H', W').

    `padding` is a number or a pair, 'valid' (none) or 'same' (needs stride 1).
    """
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@user_errors
def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, output_padding=0,
    groups: int = 1, dilation=1,
) -> Tensor:
    """input (N, C, L), weight (C, O/groups, K), bias (O,) -> (N, O, L'), L' = (L-1) s - 2 p + d (K-1) + op + 1."""
    return _transposed("conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@user_errors
def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0, output_padding=0,
    groups: int = 1, dilation=1,
) -> Tensor:
    """input (N, C, H, W), weight (C, O/groups, KH, KW), bias (O,) -> (N, O, H', W').

    H' = (H-1) stride - 2 padding + dilation (KH-1) + output_padding + 1, likewise W'.
    """
    return _transposed("conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _convolve(name, n, input, weight, bias, stride, padding, dilation, groups) -> Tensor:
    strides = per_axis(name, "stride", stride, n, 1)
    dilations = per_axis(name, "dilation", dilation, n, 1)
    x, unbatched = _batched(name, n, input)
    _check_weight(name, n, weight, bias, weight.shape[0])
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise dlc.ShapeError(
            f"{name}: input {tuple(input.shape)} has {x.shape[1]} channels, weight {tuple(weight.shape)} takes "
            f"{weight.shape[1] * groups} and gives {weight.shape[0]} in {groups} group{'s' if groups != 1 else ''}"
        )
    taps = tuple(weight.shape[2:])
    out = _contract_window(name, x, weight, _pairs(name, padding, n, taps, strides, dilations), strides, dilations,
                           groups)
    return _finish(out, bias, unbatched)


def _pairs(name, padding, n, taps, strides, dilations) -> list[tuple[int, int]]:
    if padding == "valid":
        return [(0, 0)] * n
    if padding == "same":
        if any(s != 1 for s in strides):
            raise ValueError(f"{name}: padding='same' needs stride 1, not {strides}")
        return same_padding(taps, dilations)
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding is a number, 'valid' or 'same', not {padding!r}")
    return [(p, p) for p in per_axis(name, "padding", padding, n)]


def _transposed(name, n, input, weight, bias, stride, padding, output_padding, groups, dilation) -> Tensor:
    strides = per_axis(name, "stride", stride, n, 1)
    dilations = per_axis(name, "dilation", dilation, n, 1)
    paddings = per_axis(name, "padding", padding, n)
    extras = per_axis(name, "output_padding", output_padding, n)
    x, unbatched = _batched(name, n, input)
    if groups < 1 or x.shape[1] % groups or x.shape[1] != weight.shape[0]:
        raise dlc.ShapeError(
            f"{name}: input {tuple(input.shape)} has {x.shape[1]} channels, weight {tuple(weight.shape)} takes "
            f"{weight.shape[0]} in {groups} group{'s' if groups != 1 else ''}"
        )
    for extra, s, d in zip(extras, strides, dilations, strict=True):
        if extra >= max(s, d):
            raise ValueError(f"{name}: output_padding {extras} must be smaller than stride {strides} or dilation")
    _check_weight(name, n, weight, bias, weight.shape[1] * groups)
    taps = tuple(weight.shape[2:])
    pairs = []
    for k, p, e, d in zip(taps, paddings, extras, dilations, strict=True):
        reach = d * (k - 1) - p
        pairs.append((reach, reach + e))
    axes = tuple(range(2, 2 + n))
    # (C, O/G, *taps) -> (O, C/G, *taps) with the taps reversed: the adjoint's weight as a convolution's
    per_group = (groups, weight.shape[0] // groups, weight.shape[1], *taps)
    adjoint = dlc.swapaxes(dlc.flip(dlc.reshape(weight, per_group), tuple(a + 1 for a in axes)), 1, 2)
    adjoint = dlc.reshape(adjoint, (weight.shape[1] * groups, per_group[1], *taps))
    out = _contract_window(name, spread_axes(x, axes, strides), adjoint, pairs, (1,) * n, dilations, groups)
    return _finish(out, bias, unbatched)


def _contract_window(name, x, weight, pairs, strides, dilations, groups) -> Tensor:
    """The sum of products itself: x (N, C, *spatial), weight (O, C/groups, *taps) -> (N, O, *out)."""
    n, taps = x.ndim - 2, tuple(weight.shape[2:])
    x = pad_axes(x, range(2, 2 + n), pairs)
    for extent, k, d in zip(x.shape[2:], taps, dilations, strict=True):
        if extent < d * (k - 1) + 1:
            raise dlc.ShapeError(
                f"{name}: padded input of spatial shape {tuple(x.shape[2:])} is smaller than the kernel {taps} "
                f"with dilation {tuple(dilations)}"
            )
    positions, kernel = _POSITIONS[:n], _TAPS[:n]
    if groups == 1:
        view = window(x, range(2, 2 + n), taps, strides, dilations)
        return dlc.einsum(f"nc{positions}{kernel},oc{kernel}->no{positions}", view, weight)
    x = dlc.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    weight = dlc.reshape(weight, (groups, weight.shape[0] // groups, *weight.shape[1:]))
    view = window(x, range(3, 3 + n), taps, strides, dilations)
    out = dlc.einsum(f"ngc{positions}{kernel},goc{kernel}->ngo{positions}", view, weight)
    return dlc.flatten(out, 1, 2)


def _batched(name: str, n: int, input: Tensor) -> tuple[Tensor, bool]:
    if input.ndim == n + 2:
        return input, False
    if input.ndim == n + 1:
        return dlc.expand_dims(input, axis=0), True
    raise dlc.ShapeError(f"{name}: input has {n + 2} dimensions, or {n + 1} without batch; got {tuple(input.shape)}")


def _check_weight(name: str, n: int, weight: Tensor, bias: Tensor | None, out_channels: int) -> None:
    if weight.ndim != n + 2:
        raise dlc.ShapeError(f"{name}: weight has {n + 2} dimensions, got {tuple(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise dlc.ShapeError(f"{name}: bias has shape {tuple(bias.shape)}, expected ({out_channels},)")


def _finish(out: Tensor, bias: Tensor | None, unbatched: bool) -> Tensor:
    if bias is not None:
        out = out + dlc.reshape(beside(bias, out), (-1,) + (1,) * (out.ndim - 2))
    return dlc.squeeze(out, axis=0) if unbatched else out
