"""Blocks of self-attention and feed-forward: those of GC-SAN and of SASRec.

Letters as in models/base.py: C clicks, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from models.base import Matrix, inside
from models.dropout import dropout
from models.rows import Clicks
from models.selfattention import FeedForward, SelfAttention


def kept(attention: SelfAttention, feed: FeedForward, without: Collection[str]) -> tuple[Any, Any, dict[str, Matrix]]:
    """(attention, feed, the matrices of both) of a block, with None for what it is built without.

    Both are made even to be left out: that draws random numbers, and a seed should go on giving the same weights.
    """
    matrices = {**inside("attention", attention.matrices), **inside("feed", feed.matrices)}
    attends, feeds = "self-attention" not in without, "transformation" not in without
    return attention if attends else None, feed if feeds else None, matrices


class PlainBlock(nn.Module):
    """GC-SAN's: F = self-attention of E, then F + feed-forward of F. No norms, and no residual around the former."""

    def __init__(self, dim: int, heads: int, output: bool, dropout: float, module: str, without: Collection[str]):
        super().__init__()
        attention = SelfAttention(dim, heads, False, output, output, attend="attention" not in without, module=module)
        feed = FeedForward(dim, dropout, module)
        self.attention, self.feed, self.matrices = kept(attention, feed, without)

    def forward(self, E: Tensor, clicks: Clicks, off: str | None) -> Tensor:
        """[C, D] -> [C, D]; `off` is the part of a trained model that is left out."""
        F = E
        if self.attention is not None and off != "self-attention":
            F = self.attention(E, E, clicks, uniform=off == "attention")
        return F if self.feed is None or off == "transformation" else F + self.feed(F)


class NormedBlock(nn.Module):
    """SASRec's: self-attention, then feed-forward, each with a norm and added to what it got."""

    def __init__(self, dim: int, heads: int, norm: str, output: bool, dropout: float, without: Collection[str]):
        super().__init__()
        self.norm, self.dropout = norm, dropout
        attention = SelfAttention(dim, heads, True, output, dropout=dropout, attend="attention" not in without)
        feed = FeedForward(dim, dropout)
        self.attention, self.feed, self.matrices = kept(attention, feed, without)
        self.attention_norm, self.feed_norm = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)

    def forward(self, x: Tensor, clicks: Clicks, off: str | None) -> Tensor:
        """[C, D] -> [C, D]; `off` is the part of a trained model that is left out."""

        def attend(z: Tensor, x: Tensor) -> Tensor | float:
            is_out = self.attention is None or off == "self-attention"
            return 0.0 if is_out else self.attention(z, x, clicks, uniform=off == "attention")

        def feed(z: Tensor, x: Tensor) -> Tensor | float:
            is_out = self.feed is None or off == "transformation"
            return 0.0 if is_out else dropout(self.feed(z), self.dropout, self.training)

        return self.added(self.added(x, self.attention_norm, attend), self.feed_norm, feed)

    def added(self, x: Tensor, norm: nn.Module, f: Callable[[Tensor, Tensor], Tensor | float]) -> Tensor:
        """[C, D] -> [C, D]: f, of the normed and the plain x, as it is added in each kind of norm."""
        if self.norm == "post":
            return norm(x + f(x, x))
        z = norm(x)
        return x + f(z, z) if self.norm == "pre" else z + f(z, x)
