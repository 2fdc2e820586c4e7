"""Self-attention over the clicks of each session, and a feed-forward: what GC-SAN, SASRec and CORE's transformer share.

B sessions, L clicks of the longest, C clicks, D width, H heads; in a part of the batch b sessions, l clicks at most.
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


def self_attention_matrices(heads: int, output: bool = True, module: str = "encoder") -> dict[str, Matrix]:
    """The matrices of `SelfAttention`, by head."""
    blocks = head_names(heads) if heads > 1 else ()
    found = {name: Matrix("attention", module, rows=blocks, part=PART) for name in ("query", "key", "value")}
    return found | ({"out": Matrix("attention", module, cols=blocks, part=PART)} if output else {})


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

    query: Any  # these four are None without attention
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
        self.matrices = self_attention_matrices(heads, output, module)

    def forward(self, asks: Tensor, x: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """What each click, as `asks` [C, D], gathers from the states `x` [C, D] of the clicks that it sees, [C, D].

        `uniform` weighs all that it sees alike.
        """
        rows = [x if self.value is None else self.value(x)]  # [C, D]
        if self.query is not None and not uniform:
            rows += [self.key(x), self.query(asks)]
        parts = zip(clicks.apart, *(row.split([len(part) for part in clicks.apart]) for row in rows), strict=True)
        gathered = torch.cat([self.gather(*part) for part in parts])
        return gathered if self.out is None else self.out(gathered)

    def gather(self, clicks: Clicks, *rows: Tensor) -> Tensor:
        """What each click of a part gathers, [c, D], from its `rows`: values, keys and queries [c, D] each.

        Values alone are all weighed alike.
        """
        sees = self.sees(clicks)
        value, *asked = (clicks.padded(row).unflatten(2, (self.heads, -1)).transpose(1, 2) for row in rows)
        if asked:
            key, query = asked  # [b, H, l, D / H]
            logits = query @ key.transpose(2, 3) / key.shape[3] ** 0.5  # [b, H, l, l]
            a = dropout(logits.masked_fill(~sees, -torch.inf).softmax(3), self.dropout, self.training)
        else:
            a = _alike(sees, value)
        return clicks.unpadded((a @ value).transpose(1, 2).flatten(2))  # head beside head

    def sees(self, clicks: Clicks) -> Tensor:
        """Which click (row) sees which (column): bool [1 or b, 1, l, l]. None sees padding; all see the first click."""
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
    """Equal weights for all that a click sees, in the type of x: [1 or b, 1, l, l]."""
    weights = sees.to(x.dtype)
    return weights / weights.sum(3, keepdim=True)
