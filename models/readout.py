"""Additive attention, and the readouts of SR-GNN and NARM: from the states of the clicks to session vectors.

Letters as in models/base.py: B sessions, C clicks, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix
from models.dropout import dropout
from models.rows import Clicks, Rows


def additive(
    score: nn.Module, query: Tensor, keys: Tensor, x: Tensor, rows: Rows, softmax: bool = False, uniform: bool = False
) -> Tensor:
    """The rows of x [n, D] summed for each owner, with weights score(sigmoid(query + key)): [owners, D].

    query    [owners, E], of each owner
    keys     [n, E], of each row
    softmax  the weights of an owner add up to 1
    uniform  all rows of an owner have their mean weight
    """
    alpha = score(torch.sigmoid(rows.spread(query) + keys))  # [n, 1]
    alpha = rows.softmax(alpha) if softmax else alpha
    return rows.sum((rows.spread(rows.mean(alpha)) if uniform else alpha) * x)


class AttentionReadout(nn.Module):
    """SR-GNN's (AAAI 2019), and NISER's: attention without softmax, with the last click as the query."""

    matrices: ClassVar = {
        "attend_last": Matrix("attention", "readout"),  # [D, D]
        "attend_all": Matrix("attention", "readout"),  # [D, D]
        "attend_score": Matrix("attention", "readout"),  # [1, D]
        "transform": Matrix("transformation", "readout", cols=("global", "last")),  # [D, 2D]
    }

    attend_last: Any  # None without attention, as are the next two
    attend_all: Any
    attend_score: Any

    def __init__(self, dim: int, attend: bool = True) -> None:
        super().__init__()
        self.attend_last = nn.Linear(dim, dim) if attend else None
        self.attend_all = nn.Linear(dim, dim) if attend else None
        self.attend_score = nn.Linear(dim, 1, bias=False) if attend else None
        self.transform = nn.Linear(2 * dim, dim)

    def warnings(self, longest: int) -> list[str]:
        return []

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False, beside: Tensor | None = None) -> Tensor:
        """Session vectors [B, D] from click states [C, D]; `uniform` gives all clicks of a session the mean weight.

        `beside` [B, D] is added to the query, for a model that asks with more than the last click.
        """
        last = h.index_select(0, clicks.last)  # [B, D]
        if self.attend_score is None:
            overall = clicks.mean(h)
        else:
            query = self.attend_last(last) if beside is None else self.attend_last(last) + beside
            overall = additive(self.attend_score, query, self.attend_all(h), h, clicks, uniform=uniform)  # Equation 6
        return self.transform(torch.cat([overall, last], 1))  # Equation 7


class LocalGlobalReadout(nn.Module):
    """NARM's (CIKM 2017): the weighted sum of the states (local) beside the last state (global), without biases.

    hidden, dim  h and D, the widths of the states and of the session vectors
    softmax      whether the weights of a session add up to 1
    dropout      probability at the two parts
    attend       False replaces the attention by the mean of the clicks
    """

    matrices: ClassVar = {
        "attend_last": Matrix("attention", "readout"),  # A1 [h, h]
        "attend_all": Matrix("attention", "readout"),  # A2 [h, h]
        "attend_score": Matrix("attention", "readout"),  # v [1, h]
        "transform": Matrix("transformation", "readout", cols=("local", "global")),  # B [D, 2h]
    }

    attend_last: Any  # None without attention, as are the next two
    attend_all: Any
    attend_score: Any

    def __init__(self, hidden: int, dim: int, softmax: bool, dropout: float, attend: bool = True) -> None:
        super().__init__()
        self.softmax, self.dropout = softmax, dropout
        self.attend_last = nn.Linear(hidden, hidden, bias=False) if attend else None
        self.attend_all = nn.Linear(hidden, hidden, bias=False) if attend else None
        self.attend_score = nn.Linear(hidden, 1, bias=False) if attend else None
        self.transform = nn.Linear(2 * hidden, dim, bias=False)

    def warnings(self, longest: int) -> list[str]:
        return []

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """Session vectors [B, D] from click states [C, h]; `uniform` gives all clicks of a session the mean weight."""
        last = h.index_select(0, clicks.last)  # [B, h]
        if self.attend_score is None:
            local = clicks.mean(h)
        else:
            query, keys = self.attend_last(last), self.attend_all(h)
            local = additive(self.attend_score, query, keys, h, clicks, self.softmax, uniform)
        return self.transform(dropout(torch.cat([local, last], 1), self.dropout, self.training))
