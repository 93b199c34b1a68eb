"""Multi-head attention and the Transformer encoder's layer."""

from __future__ import annotations

import math

import dlc
from dlc import Tensor
from dlc.nn import functional as F
from dlc.nn import init
from dlc.nn.dropout import Dropout
from dlc.nn.functional.attention import attend
from dlc.nn.functional.dropout import check_probability
from dlc.nn.linear import Linear
from dlc.nn.module import Module, Parameter
from dlc.nn.norm import LayerNorm


class MultiheadAttention(Module):
    """Attention with `num_heads` heads of embed_dim / num_heads (Vaswani et al. 2017, arXiv:1706.03762).

    Parameters: in_proj_weight (3 E, E) with the rows of query, key and value, or, where `kdim` or `vdim` differ from E,
    q_proj_weight (E, E), k_proj_weight (E, kdim), v_proj_weight (E, vdim); in_proj_bias (3 E,); out_proj.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = False, dtype=None,
    ):  # fmt: skip
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: {num_heads} heads do not divide embed_dim {embed_dim}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first = check_probability("MultiheadAttention", dropout), batch_first
        packed = self.kdim == self.vdim == embed_dim
        sizes = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        self.in_proj_weight = Parameter(init.empty((3 * embed_dim, embed_dim), dtype)) if packed else None
        for letter, size in sizes.items():
            value = None if packed else Parameter(init.empty((embed_dim, size), dtype))
            self.register_parameter(f"{letter}_proj_weight", value)
        self.in_proj_bias = Parameter(init.empty((3 * embed_dim,), dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Projections by Xavier's uniform rule, biases zero."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query (L, N, E), key (S, N, kdim), value (S, N, vdim) -- (N, L, E) if batch_first, (L, E) without batch.

        Returns (output like query, weights (N, L, S), or (N, heads, L, S) if not averaged; None if not needed).
        Masks, as in PyTorch: True in a bool mask hides a key; float masks are added. key_padding_mask (N, S),
        attn_mask (L, S) or (N * heads, L, S). `is_causal` needs no mask: position i sees keys 0 to i.
        """
        self._check(query, key, value)
        unbatched = query.ndim == 2
        if unbatched:
            query, key, value = (dlc.expand_dims(t, axis=0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else dlc.expand_dims(key_padding_mask, axis=0)
        elif not self.batch_first:
            same_kv, same_qk = key is value, query is key
            query = dlc.swapaxes(query, 0, 1)
            key = query if same_qk else dlc.swapaxes(key, 0, 1)
            value = key if same_kv else dlc.swapaxes(value, 0, 1)
        batch, length, _ = query.shape
        q, k, v = (self._heads(t) for t in self._project(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, batch, length, key.shape[1])
        if is_causal and mask is not None:
            if attn_mask is None:
                hidden = dlc.logical_not(F.causal_mask(length, key.shape[1]))
                mask = _merge(mask, hidden)
            is_causal = False  # attn_mask is the causal mask: PyTorch takes is_causal as a hint then
        if mask is not None and dlc.isdtype(mask.dtype, "bool"):
            mask = dlc.logical_not(mask)  # from here on True takes part
        out, weights = attend(q, k, v, mask, self.dropout if self.training else 0.0, is_causal)
        out = self.out_proj(dlc.flatten(dlc.swapaxes(out, 1, 2), 2, 3))
        if not need_weights:
            weights = None
        elif average_attn_weights:
            weights = dlc.mean(weights, axis=1)
        if unbatched:
            return dlc.squeeze(out, axis=0), None if weights is None else dlc.squeeze(weights, axis=0)
        return (out if self.batch_first else dlc.swapaxes(out, 0, 1)), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """One matmul for self-attention, else one each for query, key and value."""
        if self.in_proj_weight is not None and query is key and key is value:
            return list(dlc.chunk(F.linear(query, self.in_proj_weight, self.in_proj_bias), 3, axis=-1))
        if self.in_proj_weight is not None:
            weights = dlc.chunk(self.in_proj_weight, 3, axis=0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else dlc.chunk(self.in_proj_bias, 3, axis=0)
        return [F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, heads, T, head_dim)."""
        return dlc.swapaxes(dlc.reshape(x, (*x.shape[:2], self.num_heads, self.head_dim)), 1, 2)

    def _mask(self, attn_mask, key_padding_mask, batch: int, length: int, keys: int) -> Tensor | None:
        """The masks as one that broadcasts to (N, heads, L, S), with PyTorch's meaning: True hides."""
        mask = None
        if attn_mask is not None:
            shape = tuple(attn_mask.shape)
            if shape == (batch * self.num_heads, length, keys):
                mask = dlc.reshape(attn_mask, (batch, self.num_heads, length, keys))
            elif shape == (length, keys):
                mask = attn_mask
            else:
                raise dlc.ShapeError(
                    f"MultiheadAttention: attn_mask is ({length}, {keys}) or "
                    f"({batch * self.num_heads}, {length}, {keys}), got {shape}"
                )
        if key_padding_mask is not None:
            if tuple(key_padding_mask.shape) != (batch, keys):
                raise dlc.ShapeError(
                    f"MultiheadAttention: key_padding_mask is ({batch}, {keys}), got {tuple(key_padding_mask.shape)}"
                )
            padding = dlc.reshape(key_padding_mask, (batch, 1, 1, keys))
            mask = padding if mask is None else _merge(mask, padding)
        return mask

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        sizes = (self.embed_dim, self.kdim, self.vdim)
        for name, tensor, size in zip(("query", "key", "value"), (query, key, value), sizes, strict=True):
            if tensor.ndim not in (2, 3) or tensor.ndim != query.ndim or tensor.shape[-1] != size:
                raise dlc.ShapeError(
                    f"MultiheadAttention: {name} has {size} features and 2 or 3 dimensions like query "
                    f"{tuple(query.shape)}, got {tuple(tensor.shape)}"
                )

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def _merge(a: Tensor, b: Tensor) -> Tensor:
    """Two masks in one: bools are or-ed; with a float mask, hidden places are -inf."""
    if dlc.isdtype(a.dtype, "bool") and dlc.isdtype(b.dtype, "bool"):
        return dlc.logical_or(a, b)
    if dlc.isdtype(a.dtype, "bool"):
        a, b = b, a
    return dlc.where(b, -math.inf, a) if dlc.isdtype(b.dtype, "bool") else a + b


class TransformerEncoderLayer(Module):
    """Self-attention and a two-layer perceptron, each with dropout, residual connection and layer norm."""

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation="relu",
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        dtype=None,
    ):  # fmt: skip
        super().__init__()
        named = {"relu": F.relu, "gelu": F.gelu}
        if not callable(activation) and activation not in named:
            raise ValueError(f"TransformerEncoderLayer: activation is a function or {list(named)}, not {activation!r}")
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.activation = named.get(activation, activation) if isinstance(activation, str) else activation

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """src (T, N, E), or (N, T, E) if batch_first; masks as in MultiheadAttention."""

        def attention(x: Tensor) -> Tensor:
            out, _ = self.self_attn(
                x, x, x, src_key_padding_mask, need_weights=False, attn_mask=src_mask, is_causal=is_causal
            )
            return self.dropout1(out)

        def feed_forward(x: Tensor) -> Tensor:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        if self.norm_first:
            x = src + attention(self.norm1(src))
            return x + feed_forward(self.norm2(x))
        x = self.norm1(src + attention(src))
        return self.norm2(x + feed_forward(x))
