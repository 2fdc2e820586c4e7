"""What the models without gradients share: lists of numbers without loops, weights by distance, and votes for items.

B sessions of a batch, C clicks, V items, S training sessions. "Matches" are pairs of a session of the batch, the query,
and a training session that share an item.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def highest(query: Tensor, value: Tensor, k: int) -> Tensor:
    """Indices of the k highest values of each query (ascending [M]); of equal ones the later."""
    order = value.flip(0).argsort(descending=True, stable=True)
    order = len(value) - 1 - order
    order = order[query[order].argsort(stable=True)]
    count = torch.bincount(query)
    place = torch.arange(len(query)) - (count.cumsum(0) - count)[query[order]]
    return order[place < k]


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


def scores_of_votes(cell: Tensor, value: Tensor, fallback: Tensor, B: int) -> Tensor:
    """The sums [B, V] of votes [N] for cells (session * V + item); an item without one has its `fallback` [V]."""
    scores = fallback.repeat(B)
    scores[cell] = 0
    return scores.index_add_(0, cell, value).view(B, len(fallback))
