"""Sessions with one place more than clicks, for a token after the last click; and sparse attention among the places.

Letters as in models/base.py: B sessions, C clicks; and M = C + B places, W numbers of a place.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix
from models.dropout import dropout
from models.entmax import entmax
from models.rows import Clicks, Rows


def with_token(clicks: Clicks) -> tuple[Clicks, Tensor]:
    """The M = C + B places of clicks and tokens, session by session, and the place of each click [C].

    The token of a session is at `places.last`. Its `items` are not set: 0 at every place.
    """
    B, C, device = clicks.n_owners, len(clicks), clicks.owner.device
    lengths = clicks.lengths + 1
    owner = torch.arange(B, device=device).repeat_interleave(lengths, output_size=C + B)
    places = Clicks(owner, B, torch.zeros_like(owner), lengths, clicks.host_lengths + 1)
    return places, torch.arange(C, device=device) + clicks.owner


def pairs_of(clicks: Clicks) -> tuple[Rows, Tensor]:
    """All ordered pairs of clicks of a session, owned by the first of the two, and their cells in [B, L, L] padded.

    There are as many as a session has clicks, squared: far fewer than cells if one session of a batch is long.
    """
    L, n = clicks.width, clicks.spread(clicks.lengths)  # [C]
    size = int(clicks.host_lengths.square().sum())
    first = torch.arange(len(n), device=n.device).repeat_interleave(n, output_size=size)
    pairs = Rows(first, len(n))
    second = torch.arange(size, device=n.device) - pairs.spread(n.cumsum(0) - n)  # its position
    return pairs, pairs.spread((clicks.owner * L + clicks.position) * L) + second


class SparseSelfAttention(nn.Module):
    """DSAN's: every place attends to all places of its session, by alpha-entmax; then a feed-forward block."""

    matrices: ClassVar = {
        "query": Matrix("encoder", "encoder"),  # [W, W]; keys and values are the places themselves
        "feed_in": Matrix("encoder", "encoder"),  # [W, W]
        "feed_out": Matrix("encoder", "encoder"),  # [W, W]
    }

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.feed_in, self.feed_out = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, c: Tensor, places: Clicks, alpha: Tensor) -> Tensor:
        """States [M, W] of the places c [M, W], with the alpha of each session [B]."""
        q = dropout(torch.relu(self.query(c)), self.dropout, self.training) / c.shape[1] ** 0.5
        keys = places.padded(c)  # [B, L, W]
        scores = places.padded(q) @ keys.transpose(1, 2)  # [B, L, L]
        pairs, cell = pairs_of(places)
        weights = entmax(scores.flatten().index_select(0, cell), places.spread(alpha), pairs)
        weights = torch.zeros_like(scores).flatten().index_copy(0, cell, weights).view_as(scores)
        o = places.unpadded(weights @ keys)  # [M, W]
        return self.norm(dropout(self.feed_out(torch.relu(self.feed_in(o))), self.dropout, self.training) + o)
