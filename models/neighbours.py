"""Session-kNN: recommend what similar training sessions contain (Jannach and Ludewig 2017); its variants build on it.

The definitions are those of the session-rec framework (algorithms/knn/sknn.py), except that

- of equally similar sessions the more recent one is the neighbour; there the order in which Python iterates a set
  decides, which has no meaning and may differ between machines,
- items that no neighbour has come after all others, by popularity; there they all have score 0.

Items of equal score rank as for all models here: behind those with strictly higher scores. session-rec sorts with
pandas' quicksort, which promises no order among equal scores.

Whole batches are handled by sorting and counting, without a loop over sessions. Letters as in models/votes.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models.base import SessionModel
from models.batch import Batch
from models.limits import require_whole
from models.popularity import support_share
from models.search import Int
from models.votes import Asked, Matches, Votes, entries, highest, last_of_each, lists_of, scores_of_votes


class SessionKNN(SessionModel):
    """The k most similar sessions vote for their items.

    Similarity is the cosine |s and n| / sqrt(|s| |n|) of the sets of items; it is also the weight of the vote.

    A session is compared with the `sample` most recent training sessions that share an item (file order is time order);
    of equally similar ones the more recent is the neighbour. Items of the session itself stay eligible. Items that no
    neighbour has come last, by popularity: otherwise they would all tie, and a rank that counts only better scores
    would call them hits.

    n_items  V
    k        neighbours
    sample   training sessions compared
    """

    learns = False
    idf_weight: float = 0.0  # 0: all items count alike
    search: ClassVar[dict[str, Any]] = {"k": Int(50, 2000, log=True), "sample": Int(500, 10_000, log=True)}

    # session-rec's settings for Diginetica (conf/save/diginetica): one split, five windows.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "single": {"k": 50, "sample": 500},
        "window": {"k": 100, "sample": 500},
    }

    def __init__(self, n_items: int, k: int = 100, sample: int = 500) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, k=k, sample=sample)
        self.n_items, self.k, self.sample = n_items, k, sample

    def prepare(self, sessions: Any) -> None:
        """Index S training sessions, given as arrays `items` (numbered from 1) and `offsets` [S + 1]."""
        offsets = torch.tensor(sessions.offsets, dtype=torch.long)
        items = torch.tensor(sessions.items, dtype=torch.long) - 1
        clicks = torch.bincount(items, minlength=self.n_items)
        session = torch.repeat_interleave(offsets.diff())
        pairs, last = last_of_each(session * self.n_items + items)  # each item once a session
        self.position = (last - offsets[:-1][session[last]]).float()  # [N] of the last click on each of items_of
        session, items = pairs // self.n_items, pairs % self.n_items
        self.n_sessions = len(offsets) - 1
        self.items_of = lists_of(items, session, self.n_sessions)
        by_item = items.argsort(stable=True)
        self.sessions_of = lists_of(session[by_item], items[by_item], self.n_items)  # oldest first
        self.size = self.items_of.start.diff().float()  # [S] different items
        self.idf = (self.n_sessions / clicks.clamp(min=1)).log()  # [V]
        self.fallback = support_share(sessions, self.n_items) - 1  # [V] below every vote

    def scores(self, batch: Batch) -> Tensor:
        asked = self.asked(batch)
        found = self.matches(asked)
        similarity = self.similarity(found, asked)
        near = highest(found.query, similarity, self.k)
        found = Matches(*(x[near] for x in found))
        vote = similarity[near] * self.decay(found.step)
        place, which = entries(self.items_of, found.session)
        item = self.items_of.values[place]
        cell = found.query[which] * self.n_items + item
        votes = self.counted(Votes(cell, which, place, vote[which] * self.item_factor(item)), asked)
        return scores_of_votes(votes.cell, votes.value, self.fallback, len(batch))

    def similarity(self, found: Matches, asked: Asked) -> Tensor:
        """[M] of each match."""
        return found.shared / (asked.size[found.query] * self.size[found.session]).sqrt()

    def weight(self, position: Tensor, length: Tensor) -> Tensor:
        """Weight of an item whose last click is number `position` of `length`."""
        return torch.ones_like(position)

    def decay(self, step: Tensor) -> Tensor:
        """Weight of a neighbour whose latest shared item is `step` clicks from the end."""
        return torch.ones_like(step)

    def item_factor(self, item: Tensor) -> Tensor:
        """Factor of a vote for each of the rows `item`: above 1 for rare items, in models that have an `idf`."""
        return (1 + self.idf_weight * self.idf[item]).clamp(min=0)

    def counted(self, votes: Votes, asked: Asked) -> Votes:
        """The votes that count."""
        return votes

    def asked(self, batch: Batch) -> Asked:
        clicks = batch.clicks
        key, last = last_of_each(clicks.owner * self.n_items + clicks.items - 1)
        query, step = key // self.n_items, clicks.from_end[last] + 1
        length = batch.lengths[query]
        weight = self.weight((length - step + 1).float(), length.float())
        size = torch.bincount(query, minlength=len(batch)).float()
        return Asked(query, key % self.n_items, step.float(), weight, size)

    def matches(self, asked: Asked) -> Matches:
        """The matches with the `sample` most recent sessions."""
        place, which = entries(self.sessions_of, asked.item, self.sample)
        pair, order = (asked.query[which] * self.n_sessions + self.sessions_of.values[place]).sort(stable=True)
        which = which[order]
        pair, group, shared = torch.unique_consecutive(pair, return_inverse=True, return_counts=True)
        found = Matches(
            query=pair // self.n_sessions,
            session=pair % self.n_sessions,
            shared=shared.float(),
            weight=torch.zeros(len(pair)).index_add_(0, group, asked.weight[which]),
            step=torch.full((len(pair),), torch.inf).scatter_reduce_(0, group, asked.step[which], "amin"),
        )
        count = torch.bincount(found.query, minlength=len(asked.size))
        age = count.cumsum(0)[found.query] - torch.arange(len(pair))  # 1 is the most recent match of its query
        recent = age <= self.sample
        return Matches(*(x[recent] for x in found))
