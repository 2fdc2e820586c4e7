"""What is known of the session graphs of all prefixes before training: how many nodes, edges and the like each has.

A prefix is a window of its session: the last clicks, or all, up to some click. P prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NEVER = 2**31 - 1


class Structure(NamedTuple):
    """Facts about the session graphs, known before training."""

    back: Tensor  # [clicks] how many clicks ago the session had this item; NEVER: not before
    edge_back: Tensor  # [clicks] how many clicks ago it had the transition that ends here; NEVER: not before
    nodes: Tensor  # [P] different items of each prefix; on the host
    edges: Tensor  # [P] different transitions of each prefix; on the host
    visits: Tensor  # [clicks] how many clicks on this item came before in the session
    repeats: int  # the most clicks on one item in a session


class Windows(NamedTuple):
    """The clicks of sessions one after another, on the host, and the prefixes among them."""

    items: Tensor  # [clicks] item numbers from 1
    begin: Tensor  # [clicks] where its session begins
    stop: Tensor  # [clicks] where it ends
    end: Tensor  # [P] the last click of each prefix
    longest: int  # how many of its last clicks a prefix keeps; 0: all

    def visits(self) -> tuple[Tensor, Tensor, Tensor]:
        """`_earlier` of the clicks on one item in one session."""
        return _earlier(self.begin * (int(self.items.max()) + 1) + self.items)

    def counts(self, things: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """How many different things lie in each prefix, [P].

        Things i (begin[i], before[i], end[i]) lie at the clicks from begin to end; their previous occurrence began at
        `before` (negative: none). One counts in the windows of `longest` clicks that hold it but not the previous one:
        those that end at clicks low to high.
        """
        change, longest = torch.zeros(len(self.items) + 1, dtype=torch.long), self.longest or len(self.items) + 1
        for begin, before, end in things:
            low = torch.where(before < 0, end, torch.maximum(end, before + longest))
            high = torch.minimum(begin + longest, self.stop[end])
            counts = low < high
            change.index_add_(0, low[counts], torch.ones_like(low[counts]))
            change.index_add_(0, high[counts], -torch.ones_like(high[counts]))
        return change.cumsum(0)[self.end]


def structure_of(windows: Windows, device: torch.device) -> Structure:
    """What is known of the graphs of P prefixes; for `device`, but for what is read on the host."""
    n, (previous, first, visits) = len(windows.items), windows.visits()
    place = torch.arange(n)
    # A transition is the pair (its source's first click, its target's first click); no two sessions share one.
    pairs = torch.where(place == windows.begin, -place - 1, first.roll(1) * n + first)
    previous_edge = _earlier(pairs)[0]
    # A click is new in a window that holds it but not the previous click on its item. Transitions are alike.
    ends = place[place > windows.begin]  # the clicks that end a transition
    nodes = windows.counts([(place, previous, place)])
    edges = windows.counts([(ends - 1, previous_edge[ends] - 1, ends)])
    back, edge_back = (
        torch.where(before < 0, NEVER, place - before).int().to(device) for before in (previous, previous_edge)
    )
    return Structure(back, edge_back, nodes, edges, visits.int().to(device), int(visits.max()) + 1)


def arrivals_of(windows: Windows) -> Tensor:
    """How many nodes of each prefix have more than k transitions into them, [P, K]; on the host.

    These are its transitions with k earlier ones into the same node.
    """
    previous, place, counts = windows.visits()[0], torch.arange(len(windows.items)), list[Tensor]()
    end = oldest = place[place > windows.begin]
    while True:  # `oldest` ends the transition into the same node that came k transitions before `end`
        before = previous[oldest]
        is_one = before > windows.begin[oldest]  # no transition leads to the first click
        count = windows.counts([(oldest - 1, torch.where(is_one, before - 1, -1), end)])
        if not count.any():
            break
        counts.append(count.to(torch.uint8 if count.max() < 256 else torch.int32))
        end, oldest = end[is_one], before[is_one]
    return torch.stack(counts, 1) if counts else torch.zeros(len(windows.end), 0, dtype=torch.uint8)


def shortcuts_of(windows: Windows, nodes: Tensor) -> Tensor:
    """How many pairs (u, v) of nodes of each prefix have a click on u at or before one on v, [P]; on the host.

    Of n nodes, n (n + 1) / 2 pairs have u = v or the first click on u before that on v. Of the others v is the
    earlier: u is new between v and the next click on v.
    """
    previous, place = windows.visits()[0], torch.arange(len(windows.items))

    def others() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        again = place[(previous >= 0) & (place - previous < (windows.longest or len(place)))]  # the clicks on v
        between = again - 1
        while len(again):
            is_between = between > previous[again]
            again, between = again[is_between], between[is_between]
            yield previous[again], previous[between], again
            between = between - 1

    return nodes * (nodes + 1) // 2 + windows.counts(others())


def _earlier(key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each key [n]: the place before it with the same key (-1: none), the first such place, how many before it."""
    order = key.argsort(stable=True)
    ordered, place = key[order], torch.arange(len(key))
    begins = torch.ones_like(place, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=begins[1:])
    run = torch.where(begins, place, 0).cummax(0).values  # where the run of equal keys begins
    previous, first, count = (torch.empty_like(place) for _ in range(3))
    previous[order] = torch.where(begins, -1, order.roll(1))
    first[order] = order[run]
    count[order] = place - run
    return previous, first, count
