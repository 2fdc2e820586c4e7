"""Session-kNN, V-SKNN and SF-SKNN: recommend what similar training sessions contain (Jannach and Ludewig 2017, 2018).

The definitions are those of the session-rec framework (algorithms/knn/sknn.py and vsknn.py; for SF-SKNN sfcknn.py in
its backup folder), except that

- of equally similar sessions the more recent one is the neighbour; there the order in which Python iterates a set
  decides, which has no meaning and may differ between machines,
- items that no neighbour has come after all others, by popularity; there they all have score 0,
- negative weights are 0. `linear` is negative more than ten clicks from the end: session-rec keeps that, and gives
  every click from the eleventh on weight 0. The factor of an item is negative if it has far more clicks than there are
  sessions.

Items of equal score rank as for all models here: behind those with strictly higher scores. session-rec sorts with
pandas' quicksort, which promises no order among equal scores.

The models have no gradients: `prepare` sees the training sessions, `scores` ranks. Whole batches are handled by sorting
and counting, without a loop over clicks or sessions.

B sessions of a batch, C clicks, V items, S training sessions. "Matches" are pairs of a session of
the batch, the query, and a training session that share an item.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from models.base import SessionModel
from models.batch import Batch
from models.limits import require, require_choice, require_whole
from models.popularity import support_share
from models.search import Choice, Float, Int

DECAYS = ("same", "div", "linear", "quadratic", "log")


class Lists(NamedTuple):
    """Lists of numbers one after the other: list i is values[start[i] : start[i + 1]]."""

    values: Tensor  # [N]
    start: Tensor  # [number of lists + 1]


class Matches(NamedTuple):
    """Pairs that share an item, by session of the batch and then by training session."""

    query: Tensor  # [M] row of the batch, ascending
    session: Tensor  # [M] training session
    shared: Tensor  # [M] float, number of items shared
    weight: Tensor  # [M] sum of the weights of the shared items
    step: Tensor  # [M] float, distance of the latest shared item from the end of the query, 1 is the last click


class Asked(NamedTuple):
    """The different items of each session of the batch, session by session."""

    query: Tensor  # [P] row of the batch
    item: Tensor  # [P] row of the catalogue
    step: Tensor  # [P] float, distance of its last click from the end of the query, 1 is the last click
    weight: Tensor  # [P] its weight when sessions are compared
    size: Tensor  # [B] float, different items of each session

    def sum(self, x: Tensor) -> Tensor:
        """Over the items of each session, [P] -> [B]."""
        return torch.zeros_like(self.size).index_add_(0, self.query, x)


class Votes(NamedTuple):
    """A vote of a neighbour for one of its items."""

    cell: Tensor  # [N] row of the batch * V + row of the catalogue
    neighbour: Tensor  # [N] which match it is of
    place: Tensor  # [N] place of the item in `SessionKNN.items_of`
    value: Tensor  # [N]


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
    search: ClassVar[dict[str, Any]] = {"k": Int(50, 2000, log=True), "sample": Int(500, 10_000, log=True)}

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
        near = _highest(found.query, similarity, self.k)
        found = Matches(*(x[near] for x in found))
        vote = similarity[near] * self.decay(found.step)
        place, which = entries(self.items_of, found.session)
        item = self.items_of.values[place]
        cell = found.query[which] * self.n_items + item
        votes = self.counted(Votes(cell, which, place, vote[which] * self.item_factor(item)), asked)
        scores = self.fallback.repeat(len(batch))
        scores[votes.cell] = 0
        scores.index_add_(0, votes.cell, votes.value)
        return scores.view(len(batch), self.n_items)

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
        """Factor of a vote for each of the rows `item`."""
        return torch.ones_like(item, dtype=torch.float32)

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


class VectorSessionKNN(SessionKNN):
    """SKNN where late clicks and rare items weigh more.

    weighting  weight of the item clicked i-th of m, when sessions are compared: "div" i / m, "quadratic"
               (i / m)^2, "linear" 1 - 0.1 (m - i) but at least 0, "log" 1 / log10(m - i + 1.7), "same" 1;
               similarity is the sum of the weights of the shared items / number of different items
    decay      weight of a neighbour whose latest shared item is `step` clicks from the end: "div" 1 / step,
               "quadratic" 1 / step^2, "linear" 1 - 0.1 step but at least 0, "log" 1 / log10(step + 1.7),
               "same" 1
    idf        votes are multiplied by 1 + idf ln(S / number of clicks on the item), but at least by 0
    """

    search: ClassVar = {
        **SessionKNN.search,
        "weighting": Choice(DECAYS),
        "decay": Choice(DECAYS),
        "idf": Float(0.0, 10.0, step=1.0),
    }

    def __init__(
        self,
        n_items: int,
        k: int = 500,
        sample: int = 5000,
        weighting: str = "quadratic",
        decay: str = "div",
        idf: float = 5.0,
    ) -> None:
        super().__init__(n_items, k, sample)
        require_choice(DECAYS, weighting=weighting, decay=decay)
        require("a finite number", math.isfinite, idf=idf)
        self.weighting, self.decay_kind, self.idf_weight = weighting, decay, idf

    def similarity(self, found: Matches, asked: Asked) -> Tensor:
        return found.weight / asked.size[found.query]

    def weight(self, position: Tensor, length: Tensor) -> Tensor:
        if self.weighting == "div":
            return position / length
        if self.weighting == "quadratic":
            return (position / length) ** 2
        return falling(self.weighting, length - position)

    def decay(self, step: Tensor) -> Tensor:
        return falling(self.decay_kind, step)

    def item_factor(self, item: Tensor) -> Tensor:
        return (1 + self.idf_weight * self.idf[item]).clamp(min=0)


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


def falling(kind: str, distance: Tensor) -> Tensor:
    """A weight by the distance from the end, never negative."""
    if kind == "div":
        return 1 / distance
    if kind == "quadratic":
        return 1 / distance**2
    if kind == "linear":
        return (1 - 0.1 * distance).clamp(min=0)
    if kind == "log":
        return 1 / (distance + 1.7).log10()
    return torch.ones_like(distance)


def last_of_each(key: Tensor) -> tuple[Tensor, Tensor]:
    """The different keys, ascending, and the place of the last of each."""
    key, order = key.sort(stable=True)
    last = torch.ones_like(key, dtype=torch.bool)
    torch.ne(key[1:], key[:-1], out=last[:-1])
    return key[last], order[last]


def lists_of(values: Tensor, owner: Tensor, n_lists: int) -> Lists:
    """Values [N] with their ascending owners [N] as lists 0..n_lists - 1."""
    start = torch.zeros(n_lists + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(owner, minlength=n_lists), 0, out=start[1:])
    return Lists(values, start)


def entries(lists: Lists, which: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The places of the last `most` values of the lists `which` [P], and the list of each place, 0..P - 1."""
    stop, count = lists.start[which + 1], lists.start[which + 1] - lists.start[which]
    if most is not None:
        count = count.clamp(max=most)
    owner = torch.repeat_interleave(count)
    return torch.arange(len(owner)) + (stop - count.cumsum(0))[owner], owner


def _highest(query: Tensor, value: Tensor, k: int) -> Tensor:
    """Indices of the k highest values of each query (ascending [M]); of equal ones the later."""
    order = value.flip(0).argsort(descending=True, stable=True)
    order = len(value) - 1 - order
    order = order[query[order].argsort(stable=True)]
    count = torch.bincount(query)
    place = torch.arange(len(query)) - (count.cumsum(0) - count)[query[order]]
    return order[place < k]
