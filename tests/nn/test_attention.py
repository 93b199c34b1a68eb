"""Attention against PyTorch: masks, packed and separate projections, layouts."""

import numpy as np
import pytest

import dlc
import dlc.nn.functional as F
from dlc import nn
from tests.nn.against_torch import close, normal, same_function, same_module, torch

TF = torch.nn.functional


@pytest.mark.parametrize("mask", [None, "causal", "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_scaled_dot_product_attention(mask, scale):
    keep = normal(5, 6, seed=9) > -0.3
    keep[2] = False  # a row that sees nothing gives zeros
    given = {"bool": keep, "float": normal(2, 1, 5, 6, seed=8)}.get(mask)
    settings = {"is_causal": mask == "causal", "scale": scale}
    same_function(
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, None if given is None else dlc.asarray(given), **settings
        ),
        lambda q, k, v: TF.scaled_dot_product_attention(
            q, k, v, None if given is None else torch.tensor(given), **settings
        ),
        [normal(2, 3, 5, 4), normal(2, 3, 6, 4), normal(2, 3, 6, 7)],
    )


def test_grouped_queries():
    same_function(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [normal(2, 6, 5, 4), normal(2, 3, 5, 4), normal(2, 3, 5, 4, seed=1)],
    )


@pytest.mark.parametrize(
    "settings", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 10}, {"kdim": 6, "bias": False}]
)
def test_multihead_attention(settings):
    ours, theirs = nn.MultiheadAttention(8, 2, **settings), torch.nn.MultiheadAttention(8, 2, **settings)
    q = normal(5, 3, 8)
    k, v = normal(4, 3, settings.get("kdim", 8)), normal(4, 3, settings.get("vdim", 8), seed=2)
    if settings.get("batch_first"):
        q, k, v = (np.swapaxes(t, 0, 1).copy() for t in (q, k, v))
    same_module(ours, theirs, [q, k, v])
    same_module(ours, theirs, [q, k, v], average_attn_weights=False)
    same_module(ours, theirs, [q, k, v], need_weights=False)


def test_self_attention_and_no_batch():
    ours, theirs = nn.MultiheadAttention(8, 4), torch.nn.MultiheadAttention(8, 4)
    ours.load_state_dict(theirs.state_dict())
    for x in (normal(5, 3, 8), normal(5, 8)):
        same_function(lambda t: ours(t, t, t), lambda t: theirs(t, t, t), [x])


def test_masks():
    ours, theirs = nn.MultiheadAttention(8, 2), torch.nn.MultiheadAttention(8, 2)
    x = normal(5, 3, 8)
    padding = np.zeros((3, 5), bool)
    padding[1, 3:] = True
    causal = np.triu(np.ones((5, 5), bool), 1)
    for masks in (
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": causal, "key_padding_mask": padding},
        {"attn_mask": normal(5, 5)},
        {"attn_mask": normal(6, 5, 5)},
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
    ):
        same_module(ours, theirs, [x, x, x], **masks)


def test_causal_without_a_mask():
    ours = nn.MultiheadAttention(8, 2)
    x = dlc.asarray(normal(5, 3, 8))
    hidden = dlc.asarray(np.triu(np.ones((5, 5), bool), 1))
    padding = dlc.asarray(np.array([[False] * 4 + [True]] * 3))
    close(ours(x, x, x, is_causal=True)[0], np.asarray(ours(x, x, x, attn_mask=hidden)[0]), "causal")
    both = ours(x, x, x, padding, attn_mask=hidden)[0]
    close(ours(x, x, x, padding, is_causal=True)[0], np.asarray(both), "causal and padding")


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(norm_first, activation):
    settings = {"dim_feedforward": 16, "dropout": 0.0, "activation": activation, "norm_first": norm_first}
    ours, theirs = nn.TransformerEncoderLayer(8, 2, **settings), torch.nn.TransformerEncoderLayer(8, 2, **settings)
    same_module(ours, theirs, [normal(5, 3, 8)], rtol=1e-4, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="3 heads do not divide embed_dim 8"):
        nn.MultiheadAttention(8, 3)
    m, x = nn.MultiheadAttention(8, 2), dlc.zeros((5, 3, 8))
    with pytest.raises(dlc.ShapeError, match=r"attn_mask is \(5, 5\) or \(6, 5, 5\), got \(4, 4\)"):
        m(x, x, x, attn_mask=dlc.zeros((4, 4)))
    with pytest.raises(dlc.ShapeError, match="key has 8 features"):
        m(x, dlc.zeros((5, 3, 6)), x)
    with pytest.raises(dlc.ShapeError, match="query and key differ in their last dimension"):
        F.scaled_dot_product_attention(x, dlc.zeros((5, 3, 6)), x)
    with pytest.raises(ValueError, match="not both"):
        F.scaled_dot_product_attention(x, x, x, attn_mask=dlc.zeros((3, 3)), is_causal=True)
