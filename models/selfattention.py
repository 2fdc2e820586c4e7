"""Self-attention over the clicks of each session, and the feed-forward after it: what GC-SAN and SASRec share.

B sessions, L clicks of the longest, C clicks, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.base import Matrix, head_names
from models.dropout import dropout
from models.limits import require_heads
from models.rows import Clicks

PART = "self-attention"


class SelfAttention(nn.Module):
    """softmax(Q K' / sqrt(D / H)) V for H heads side by side. A click sees the clicks of its own session only.

    dim, heads  D, H; head h has rows h D / H to (h + 1) D / H of query, key and value, and these columns of out
    causal      a click sees no later click
    output      one more matrix maps the heads together
    bias        at query, value and out. One at key would add the same to all logits of a click: softmax cancels it
    dropout     probability at the weights
    attend      False: no matrices; what a click gets is the mean of the clicks that it sees
    module      of the matrices. Their role is "attention", their part "self-attention"
    """

    query: Any  # None without attention, as are the next two
    key: Any
    value: Any
    out: Any

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        causal: bool = False,
        output: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        attend: bool = True,
        module: str = "encoder",
    ) -> None:
        super().__init__()
        require_heads(heads, dim)
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.query = nn.Linear(dim, dim, bias=bias) if attend else None
        self.key = nn.Linear(dim, dim, bias=False) if attend else None
        self.value = nn.Linear(dim, dim, bias=bias) if attend else None
        self.out = nn.Linear(dim, dim, bias=bias) if attend and output else None
        blocks = head_names(heads) if heads > 1 else ()
        self.matrices = {
            name: Matrix("attention", module, rows=blocks, part=PART) for name in ("query", "key", "value")
        }
        if output:
            self.matrices["out"] = Matrix("attention", module, cols=blocks, part=PART)

    def forward(self, asks: Tensor, x: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """What each click, as `asks` [C, D], gathers from the states `x` [C, D] of the clicks that it sees, [C, D].

        `uniform` weighs all that it sees alike.
        """
        sees = self.sees(clicks)
        if self.query is None:
            return clicks.unpadded(_alike(sees, x)[:, 0] @ clicks.padded(x))
        value = self.heads_of(self.value(x), clicks)  # [B, H, L, D / H]
        if uniform:
            a = _alike(sees, x)
        else:
            query, key = self.heads_of(self.query(asks), clicks), self.heads_of(self.key(x), clicks)
            logits = query @ key.transpose(2, 3) / key.shape[3] ** 0.5  # [B, H, L, L]
            a = dropout(logits.masked_fill(~sees, -torch.inf).softmax(3), self.dropout, self.training)
        gathered = clicks.unpadded((a @ value).transpose(1, 2).flatten(2))  # [C, D], head beside head
        return gathered if self.out is None else self.out(gathered)

    def heads_of(self, x: Tensor, clicks: Clicks) -> Tensor:
        """[C, D] -> [B, H, L, D / H]."""
        return clicks.padded(x).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def sees(self, clicks: Clicks) -> Tensor:
        """Which click (row) sees which (column): bool [1 or B, 1, L, L]. None sees padding; all see the first click."""
        place = torch.arange(clicks.width, device=clicks.lengths.device)
        if self.causal:  # padding comes later than every click
            return (place[:, None] >= place)[None, None]
        return (place < clicks.lengths[:, None])[:, None, None].expand(-1, -1, clicks.width, -1)


class FeedForward(nn.Module):
    """W2 dropout(ReLU(W1 x)), row by row; both matrices are [D, D]."""

    def __init__(self, dim: int, dropout: float = 0.0, module: str = "encoder") -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.matrices: dict[str, Matrix] = dict.fromkeys(("first", "second"), Matrix("transformation", module))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(dropout(torch.relu(self.first(x)), self.dropout, self.training))


def _alike(sees: Tensor, x: Tensor) -> Tensor:
    """Equal weights for all that a click sees, in the type of x: [B, 1, L, L]."""
    weights = sees.to(x.dtype)
    return weights / weights.sum(3, keepdim=True)
