"""Attention: softmax(q k^T * scale + mask) v."""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.frontend.core.location import user_errors
from dlc.nn.functional.dropout import dropout
from dlc.nn.functional.precision import narrow, widen


@user_errors
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    `attn_mask` broadcasts to (..., L, S): bool (True takes part) or float (added to the scores). `is_causal` lets
    position i see keys 0 to i. `scale` is 1 / sqrt(E) if None. `dropout_p` always acts: pass 0 in evaluation. With
    `enable_gqa`, axis -3 of key and value divides that of query, and each head serves a group of queries. A row whose
    keys are all masked, or that has none, gives zeros.
    """
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    _check("scaled_dot_product_attention", query, key, value, enable_gqa)
    if enable_gqa:
        key, value = (_repeat_heads(t, query.shape[-3]) for t in (key, value))
    out, _ = attend(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return out


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(output (..., L, V), weights (..., L, S)) of attention; arguments as in `scaled_dot_product_attention`."""
    factor = 1.0 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale
    scores, out_dtype = widen(dlc.matmul(query, dlc.matrix_transpose(key)) * factor)
    if is_causal:
        scores = dlc.where(causal_mask(*scores.shape[-2:]), scores, -math.inf)
    elif attn_mask is not None:
        if attn_mask.ndim > scores.ndim or any(
            m not in (1, s) for m, s in zip(reversed(attn_mask.shape), reversed(scores.shape), strict=False)
        ):
            raise dlc.ShapeError(
                f"attn_mask of shape {tuple(attn_mask.shape)} does not broadcast to the scores' {tuple(scores.shape)}"
            )
        is_bool = dlc.isdtype(attn_mask.dtype, "bool")
        scores = dlc.where(attn_mask, scores, -math.inf) if is_bool else scores + attn_mask
    weights = narrow(_softmax(scores, may_be_empty=attn_mask is not None), out_dtype)
    return dlc.matmul(dropout(weights, dropout_p), value), weights


def causal_mask(queries: int, keys: int) -> Tensor:
    """bool (queries, keys): True where key j <= query i."""
    i = dlc.expand_dims(dlc.arange(queries), axis=1)
    return dlc.expand_dims(dlc.arange(keys), axis=0) <= i


def _softmax(scores: Tensor, may_be_empty: bool) -> Tensor:
    """Softmax of the last axis; a row of -inf gives zeros if it may occur."""
    if scores.shape[-1] == 0:
        return scores
    m = dlc.stop_gradient(dlc.max(scores, axis=-1, keepdims=True))
    if not may_be_empty:
        e = dlc.exp(scores - m)
        return e / dlc.sum(e, axis=-1, keepdims=True)
    empty = m == -math.inf
    e = dlc.exp(scores - dlc.where(empty, 0, m))
    return e / dlc.where(empty, 1, dlc.sum(e, axis=-1, keepdims=True))


def _check(name: str, query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise dlc.ShapeError(f"{name}: needs at least two dimensions each: {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise dlc.ShapeError(f"{name}: query and key differ in their last dimension: {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise dlc.ShapeError(f"{name}: key and value differ in length: {shapes}")
    if enable_gqa and (min(query.ndim, key.ndim) < 3 or query.shape[-3] % key.shape[-3]):
        raise dlc.ShapeError(f"{name}: heads of key do not divide those of query: {shapes}")


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[-3] == heads else dlc.repeat(x, heads // x.shape[-3], axis=-3)
