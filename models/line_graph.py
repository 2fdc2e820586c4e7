"""The second view of S^2-DHCN (AAAI 2021): the sessions of a batch as a graph, and the loss that compares both views.

B sessions of a batch, C clicks, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.rows import Clicks

EPS = 1e-8  # in the logarithms, as released


def line_graph(clicks: Clicks, n_items: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """|S_i and S_j| / |S_i or S_j| of the sets of items of B sessions, rows divided by their sums: [B, B]."""
    items, row = clicks.items - 1, torch.arange(len(clicks), device=clicks.items.device)
    # An item's column is a row with a click on it: what is written last stays. No other number is read.
    column = row.new_empty(n_items).index_copy_(0, items, row).index_select(0, items)
    has = torch.zeros(clicks.n_owners, len(clicks), dtype=dtype, device=row.device)
    has[clicks.owner, column] = 1  # [B, C]
    both, size = has @ has.t(), has.sum(1)
    jaccard = both / (size[:, None] + size - both)
    return jaccard / jaccard.sum(1, keepdim=True)


def contrast(s: Tensor, q: Tensor) -> Tensor:
    """The loss of each session, [B]: its two vectors should agree, and q not with a shuffled session."""
    shuffled = s[torch.randperm(len(s), device=s.device)][:, torch.randperm(s.shape[1], device=s.device)]
    agree, disagree = torch.sigmoid((s * q).sum(1)), torch.sigmoid((q * shuffled).sum(1))
    return -(EPS + agree).log() - (EPS + (1 - disagree)).log()
