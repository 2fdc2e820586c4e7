"""Two baselines that know nothing of order or of other sessions: item popularity and session popularity.

They have no gradients: `prepare` sees the training sessions (whole sessions, not prefixes, which would count early
clicks more often), `scores` ranks. B sessions of a batch, C clicks, V items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.base import SessionModel
from models.batch import Batch
from models.limits import require_whole


def support_share(sessions: Any, n_items: int) -> Tensor:
    """Clicks on each item [V] / (clicks on the most clicked item + 1): from 0 to below 1.

    `sessions` has the clicks as an array `items`, numbered from 1. The order is that of the usual supp / (1 + supp), in
    which float32 cannot tell popular items apart.
    """
    support = torch.bincount(torch.tensor(sessions.items, dtype=torch.long) - 1, minlength=n_items)
    return (support / (support.max() + 1)).float()


class Popularity(SessionModel):
    """The most clicked items, the same for everybody."""

    learns = False

    def __init__(self, n_items: int) -> None:
        super().__init__()
        require_whole(1, n_items=n_items)
        self.n_items = n_items

    def prepare(self, sessions: Any) -> None:
        self.share = support_share(sessions, self.n_items)

    def scores(self, batch: Batch) -> Tensor:
        return self.share.expand(len(batch), -1)


class SessionPopularity(Popularity):
    """The items of the session by clicks, then the most clicked."""

    def scores(self, batch: Batch) -> Tensor:
        cell = batch.clicks.owner * self.n_items + batch.clicks.items - 1
        clicks = torch.ones(len(cell), dtype=self.share.dtype)
        return self.share.repeat(len(batch)).index_add_(0, cell, clicks).view(len(batch), -1)
