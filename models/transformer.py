"""A transformer that gives each click of a session a logit: the encoder of CORE-trm.

Letters as in models/base.py: C clicks, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Matrix, inside
from models.dropout import dropout
from models.rows import Clicks
from models.selfattention import SelfAttention, self_attention_matrices


class Layer(nn.Module):
    """Causal self-attention, then a feed-forward net; each is added to its input, and the sum normalised."""

    def __init__(self, dim: int, attends: bool, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention = SelfAttention(dim, heads, causal=True, dropout=dropout) if attends else None
        self.norm_attention = nn.LayerNorm(dim, eps=1e-12) if attends else None
        self.inner, self.outer = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, h: Tensor, clicks: Clicks, attends: bool) -> Tensor:
        """[C, D] -> [C, D]."""
        if self.attention is not None and self.norm_attention is not None and attends:
            h = self.norm_attention(h + dropout(self.attention(h, h, clicks), self.dropout, self.training))
        return self.norm(h + dropout(self.outer(F.gelu(self.inner(h))), self.dropout, self.training))


def matrices_of(layers: int, heads: int) -> dict[str, Matrix]:
    """The matrices of a transformer of so many layers and heads."""
    own = inside("attention", self_attention_matrices(heads)) | dict.fromkeys(
        ("inner", "outer"), Matrix("encoder", "encoder")
    )
    weigh = {"encoder.weigh": Matrix("attention", "encoder")}
    return {f"encoder.layers.{i}.{name}": own[name] for i in range(layers) for name in own} | weigh


class Transformer(nn.Module):
    """A logit for each click."""

    def __init__(
        self, dim: int, length: int, layers: int, heads: int, inner: int, dropout: float, without: Collection[str]
    ) -> None:
        super().__init__()
        attends, self.dropout = "self-attention" not in without, dropout
        # [length, D], a bias for each position from the first click on: it maps nothing, so it is no weight matrix
        self.position_bias = None if "positions" in without else nn.Parameter(0.02 * torch.randn(length, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Layer(dim, attends, heads, inner, dropout) for _ in range(layers))
        # A bias here or in the last norm would add the same to all logits of a session.
        self.layers[-1].norm = nn.LayerNorm(dim, eps=1e-12, bias=False)
        self.weigh = nn.Linear(dim, 1, bias=False)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, clicks: Clicks, without: str | None) -> Tensor:
        """[C, D] -> [C, 1]."""
        if self.position_bias is not None and without != "positions":
            x = x + self.position_bias.index_select(0, clicks.position)
        h = dropout(self.norm(x), self.dropout, self.training)
        for layer in self.layers:
            h = layer(h, clicks, attends=without != "self-attention")
        return self.weigh(h)
