"""Two baselines that know nothing of order or of other sessions: item popularity and session popularity.

They have no gradients: `fit` on training sessions (whole sessions, not prefixes, which would count early
clicks more often), then `scores`. B sessions of a batch, L clicks (padded), V items.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor


def support_share(sessions: Any, n_items: int) -> Tensor:
    """Clicks on each item [V] / (clicks on the most clicked item + 1): from 0 to below 1.

    `sessions` has the clicks as an array `items`, numbered from 1. The order is that of supp / (1 + supp),
    the usual form, in which float32 cannot tell popular items apart.
    """
    support = torch.bincount(torch.tensor(sessions.items, dtype=torch.long) - 1, minlength=n_items)
    return (support / (support.max() + 1)).float()


class Popularity:
    """The most clicked items, the same for everybody."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def fit(self, sessions: Any) -> Self:
        self.share = support_share(sessions, self.n_items)
        return self

    def scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores [B, V] after the sessions `items` [B, L] (0 pads on the right) of `lengths` [B]."""
        return self.share.expand(len(items), -1)


class SessionPopularity(Popularity):
    """The items of the session by the number of their clicks in it, then all others by popularity."""

    def scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores [B, V] after the sessions `items` [B, L] (0 pads on the right) of `lengths` [B]."""
        clicks = (items > 0).to(self.share.dtype)
        scores = self.share.repeat(len(items), 1)
        return scores.scatter_add_(1, (items - 1).clamp(min=0), clicks)
