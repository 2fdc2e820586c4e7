"""SF-SKNN: session-kNN with candidates that follow the last item (Ludewig and Jannach 2018).

After session-rec (sfcknn.py in its backup folder), with the exceptions of models/neighbours.py.
Letters as in models/votes.py.
"""

from __future__ import annotations

from typing import Any

import torch

from models.neighbours import SessionKNN
from models.votes import Asked, Votes, entries, lists_of


class FilteredSessionKNN(SessionKNN):
    """SF-SKNN: SKNN where only items count that have come right after the session's last item.

    It is enough that any training session has the two in a row; the neighbour need not.
    """

    def prepare(self, sessions: Any) -> None:
        super().prepare(sessions)
        items = torch.tensor(sessions.items, dtype=torch.long) - 1
        inside = torch.ones(max(len(items) - 1, 0), dtype=torch.bool)  # not from a session to the next one
        inside[torch.tensor(sessions.offsets, dtype=torch.long)[1:-1] - 1] = False
        pairs = torch.unique((items[:-1] * self.n_items + items[1:])[inside])
        self.followers = lists_of(pairs % self.n_items, pairs // self.n_items, self.n_items)

    def counted(self, votes: Votes, asked: Asked) -> Votes:
        now = asked.step == 1  # one item of each session
        place, which = entries(self.followers, asked.item[now])
        follows = torch.zeros(len(asked.size) * self.n_items, dtype=torch.bool)
        follows[asked.query[now][which] * self.n_items + self.followers.values[place]] = True
        kept = follows[votes.cell]
        return Votes(*(x[kept] for x in votes))
