"""Affine maps and embedding."""

from __future__ import annotations

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.precision import beside


@user_errors
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias: input (..., in), weight (out, in) or (in,), bias (out,) -> (..., out).

    Raises ValueError naming both shapes where the last extents differ.
    """
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise dlc.ShapeError(
            f"linear: input of shape {tuple(input.shape)} has no last dimension of {weight.shape[-1]}, "
            f"which weight {tuple(weight.shape)} takes"
        )
    out = dlc.matmul(input, dlc.matrix_transpose(weight) if weight.ndim == 2 else weight)
    return out if bias is None else out + beside(bias, out)


@user_errors
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W x2 + b: (..., in1), (..., in2), weight (out, in1, in2) -> (..., out)."""
    out = dlc.einsum("...ok,...k->...o", dlc.einsum("...i,oik->...ok", input1, weight), input2)
    return out if bias is None else out + beside(bias, out)


@user_errors
def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` (V, D) picked by the integers `input` (any shape S) -> (S, D).

    The row `padding_idx` gets no gradient.
    """
    rows = dlc.take(weight, input, axis=0)
    if padding_idx is None:
        return rows
    padding_idx = check_padding_idx(padding_idx, weight.shape[0])
    is_padding = dlc.expand_dims(input == padding_idx, axis=-1)
    return dlc.where(is_padding, dlc.stop_gradient(rows), rows)


def check_padding_idx(padding_idx: int, rows: int) -> int:
    """`padding_idx` counted from the front. Raises ValueError where it is not a row."""
    if not -rows <= padding_idx < rows:
        raise ValueError(f"embedding: padding_idx {padding_idx} is outside a table of {rows} rows")
    return padding_idx % rows
