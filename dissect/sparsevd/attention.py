"""The SparseVD layer for MultiheadAttention: its queries, keys and values, and its output projection.

Letters: B sequences, L queries, S keys, D width, H heads, E = D / H the width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dissect.errors import UsageError
from dissect.sparsevd.layers import LinearVD, VariationalLayer

PARTS = ("q", "k", "v")


class OutProjectionVD(LinearVD, NonDynamicallyQuantizableLinear):
    """The output projection of an attention: x [..., D] -> [..., D]; weight, log_sigma2 [D, D]."""

    dense_class = NonDynamicallyQuantizableLinear
    heads = 1

    def blocks(self, theta_name: str) -> dict[str, tuple[slice, ...]]:
        """The columns that read the output of each head."""
        width = self.in_features // self.heads
        return {f"head{h}": (slice(None), slice(h * width, (h + 1) * width)) for h in range(self.heads)}

    def to_dense(self, prune: bool = True) -> nn.Module:
        dense = super().to_dense(prune)
        dense.__dict__.pop("heads", None)
        return dense


class MultiheadAttentionVD(VariationalLayer, nn.MultiheadAttention):
    """MultiheadAttention with all its arguments; in_proj_weight [3D, D] has the rows of q, k and v.

    Where keys or values have another width, q_proj_weight [D, D], k_proj_weight [D, kdim] and v_proj_weight [D, vdim]
    take its place. The output projection is a layer of its own, out_proj. Noise is on the four projections; the
    attention itself is plain.
    """

    dense_class = nn.MultiheadAttention
    out_proj: Any  # an OutProjectionVD

    def theta_names(self) -> Sequence[str]:
        if self._qkv_same_embed_dim:
            return ("in_proj_weight",)
        return tuple(f"{part}_proj_weight" for part in PARTS)

    def blocks(self, theta_name: str) -> dict[str, tuple[slice, ...]]:
        """q, k and v, and the rows of each head in them, as "q.head0"; if `theta_name` is one of q, k, v, its heads."""
        D, E, found = self.embed_dim, self.head_dim, dict[str, tuple[slice, ...]]()
        parts = [f"{part}." for part in PARTS] if self._qkv_same_embed_dim else [""]
        for at, part in enumerate(parts):
            if part:
                found[part[:-1]] = (slice(at * D, (at + 1) * D),)
            for h in range(self.num_heads):
                found[f"{part}head{h}"] = (slice(at * D + h * E, at * D + (h + 1) * E),)
        return found

    def _reset_parameters(self) -> None:
        super()._reset_parameters()
        if "noise" in self.__dict__:
            for layer in (self, self.out_proj):
                layer.reset_log_sigma2()

    def reset_parameters(self) -> None:
        """As `_reset_parameters`, which is what PyTorch's own is called."""
        self._reset_parameters()

    def _make_variational(self, noise: str, threshold: float, log_sigma2: float | None, unit: str) -> None:
        super()._make_variational(noise, threshold, log_sigma2, unit)
        settings: dict[str, Any] = {"noise": noise, "threshold": threshold, "log_sigma2": log_sigma2, "unit": unit}
        self._modules["out_proj"] = out = OutProjectionVD.from_dense(self.out_proj, **settings)
        out.heads = self.num_heads

    def to_dense(self, prune: bool = True) -> nn.Module:
        dense = super().to_dense(prune)
        dense._modules["out_proj"] = self.out_proj.to_dense(prune)
        return dense

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
        """The outputs [B, L, D], in the layout of the inputs, and the weights [B, L, S] ([B, H, L, S] not averaged).

        The weights are None without `need_weights`. `is_causal` is a hint that `attn_mask` is causal, as in PyTorch.
        """
        if is_causal and attn_mask is None:
            raise UsageError(
                "is_causal only says what attn_mask is, and there is none.",
                "Give attn_mask=nn.Transformer.generate_square_subsequent_mask(length).",
            )
        is_single = query.dim() == 2
        laid = {
            id(x): x[None] if is_single else x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)
        }
        if is_single and key_padding_mask is not None:
            key_padding_mask = key_padding_mask[None]
        q, k, v = self._projected(*(laid[id(x)] for x in (query, key, value)))  # [B, L, D], [B, S, D], [B, S, D]
        B, L = q.shape[:2]
        mask = self._mask(attn_mask, key_padding_mask, B, q.dtype)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (
                torch.cat([x, bias.to(x.dtype).expand(B, 1, -1)], 1) for x, bias in ((k, self.bias_k), (v, self.bias_v))
            )
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        if mask is not None:
            mask = F.pad(mask, (0, k.shape[1] - mask.shape[-1]))
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, ., E]
        attended, weights = self._attended(q, k, v, mask, need_weights)
        y = self.out_proj(attended.transpose(1, 2).reshape(B, L, -1))
        weights = weights.mean(1) if weights is not None and average_attn_weights else weights
        if is_single:
            return y[0], None if weights is None else weights[0]
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each with noise of its own."""
        if not self._qkv_same_embed_dim:
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            named = zip(PARTS, (query, key, value), biases, strict=True)
            q, k, v = (self._product(f"{part}_proj_weight", x, bias) for part, x, bias in named)
            return q, k, v
        if query is key and key is value:
            q, k, v = self._product("in_proj_weight", query, self.in_proj_bias).chunk(3, -1)
            return q, k, v
        D, products = self.embed_dim, []
        for at, x in enumerate((query, key, value)):
            rows = slice(at * D, (at + 1) * D)
            bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
            products.append(self._product("in_proj_weight", x, bias, rows))
        return products[0], products[1], products[2]

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, B: int, dtype: torch.dtype) -> Tensor | None:
        """Both masks as one to add to the scores: [B or 1, H or 1, L or 1, S]."""
        masks = []
        if attn_mask is not None:
            attn_mask = attn_mask if attn_mask.dim() == 2 else attn_mask.view(B, self.num_heads, *attn_mask.shape[1:])
            masks.append(attn_mask.expand(1, 1, -1, -1) if attn_mask.dim() == 2 else attn_mask)
        if padding is not None:
            masks.append(padding[:, None, None, :])
        added = [
            mask.to(dtype)
            if mask.is_floating_point()
            else mask.new_zeros(mask.shape, dtype=dtype).masked_fill(mask, -math.inf)
            for mask in masks
        ]
        return sum(added[1:], added[0]) if added else None

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What each head reads [B, H, L, E], and with which weights [B, H, L, S]."""
        p = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, p), None
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, p) if p else weights
        return weights @ v, weights
