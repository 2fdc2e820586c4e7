"""Batches of sessions, made on the device from arrays that are computed once per data set.

A prefix is the beginning of a session; the click that follows is its target. Whether a click is the first on its item,
or a transition is new, is the same in all prefixes of a session. So the host knows the numbers of clicks, nodes and
edges of a batch from look-ups, and the rows are a few gathers: a step searches nothing and waits for no device. The
same holds for transitions that are not merged, and for shortcuts; their counts are made for a model that asks for them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from models.rows import Clicks, Edges, Nodes, Transitions
from models.structure import Structure, Windows, arrivals_of, shortcuts_of, structure_of


class Prefixes:
    """All P prefixes of some sessions on a device; a batch is an index into them.

    items    item numbers from 1, session after session (a list or an array)
    offsets  where the sessions begin, and the end [S + 1]
    longest  how many of its last clicks a prefix keeps; 0: all
    """

    def __init__(self, items: Any, offsets: Any, device: torch.device | str = "cpu", longest: int = 0) -> None:
        self.device, self.longest = torch.device(device), longest
        self._items, offsets = torch.tensor(items, dtype=torch.int32), torch.tensor(offsets, dtype=torch.int64)
        self._begin = offsets[:-1].repeat_interleave(offsets.diff())  # [clicks] where its session begins
        self._stop = offsets[1:].repeat_interleave(offsets.diff())  # [clicks] where it ends
        place = torch.arange(len(self._items))
        self._end = place[place < self._stop - 1]  # [P] the last click of each prefix
        whole = self._end - self._begin[self._end] + 1
        self.length = whole.clamp(max=longest) if longest else whole  # [P] clicks kept; on the host
        self.items = self._items.to(self.device)
        self.end = self._end.to(self.device)
        self._latest: dict[int, Prefixes] = {}

    def __len__(self) -> int:
        return len(self._end)

    @cached_property
    def whole(self) -> Tensor:
        """The longest prefix of each session, [S']."""
        return (self._end == self._stop[self._end] - 2).nonzero()[:, 0]

    def batch(self, index: Tensor) -> Batch:
        """The prefixes `index` [B], a tensor on the host. Kernels are fastest if lengths ascend (`by_length`)."""
        return Batch(self, index)

    def latest(self, n: int) -> Prefixes:
        """The same prefixes, under the same index, each with its last `n` clicks at most; made once for each n."""
        if 0 < self.longest <= n:
            return self
        if n not in self._latest:
            shorter = copy.copy(self)
            for counted in ("structure", "arrivals", "shortcuts"):
                shorter.__dict__.pop(counted, None)
            shorter.longest, shorter.length = n, self.length.clamp(max=n)
            self._latest[n] = shorter
        return self._latest[n]

    def by_length(self, index: Tensor) -> Tensor:
        """The same prefixes in the order of their lengths."""
        return index[self.length[index].argsort(stable=True)]

    @property
    def _windows(self) -> Windows:
        return Windows(self._items, self._begin, self._stop, self._end, self.longest)

    @cached_property
    def structure(self) -> Structure:
        """Computed when a model first asks for a graph."""
        return structure_of(self._windows, self.device)

    @cached_property
    def arrivals(self) -> Tensor:
        """How many nodes of each prefix have more than k transitions into them, [P, K]; on the host."""
        return arrivals_of(self._windows)

    @cached_property
    def shortcuts(self) -> Tensor:
        """How many pairs (u, v) of nodes of each prefix have a click on u at or before one on v, [P]; on the host."""
        return shortcuts_of(self._windows, self.structure.nodes)


class Batch:
    """B sessions: padded as `items` and `lengths`, or as the rows `clicks`, `nodes` and `edges`.

    Each is made once, at its first use. Letters as in models/base.py.
    """

    def __init__(self, prefixes: Prefixes, index: Tensor) -> None:
        self._prefixes, self.index = prefixes, index
        self.host_lengths = at(prefixes.length, index)
        self._end = at(prefixes.end, index.to(prefixes.device, non_blocking=True))  # [B] the last click
        self.lengths = self.host_lengths.to(prefixes.device, non_blocking=True)  # [B]
        self._start = self._end - self.lengths + 1

    @classmethod
    def of(cls, sessions: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Batch:
        """A batch of lists of item numbers; the targets are unknown (0).

        Raises ValueError if there is no session, or one without clicks.
        """
        if not len(sessions):
            raise ValueError("a batch needs one session at least, and there is none")
        if empty := [number for number, session in enumerate(sessions) if not len(session)]:
            raise ValueError(f"sessions[{empty[0]}] of {len(sessions)} has no clicks: leave it out")
        items = [item for session in sessions for item in (*session, 0)]
        offsets = list(accumulate((len(session) + 1 for session in sessions), initial=0))
        prefixes = Prefixes(items, offsets, device)
        return prefixes.batch(prefixes.whole)

    def __len__(self) -> int:
        return len(self.index)

    def latest(self, n: int) -> Batch:
        """The same sessions, each with its last `n` clicks at most, for a model that looks back no further."""
        prefixes = self._prefixes.latest(n)
        return self if prefixes is self._prefixes else prefixes.batch(self.index)

    def windows(self, n: int) -> tuple[Batch, Tensor]:
        """For a model that looks back `n` clicks, what it sees at each click, as sessions of their own.

        Returns the first n clicks of each session, or all, followed by the last n clicks up to each later click; and
        for each click of this batch its row among the clicks of those, [C].
        """
        later = (self.host_lengths - n).clamp(min=0)  # [B], on the host
        if not bool(later.any()):
            return self, torch.arange(len(self._owner), device=self._owner.device)
        begins = (later + 1).cumsum(0) - later - 1
        steps = torch.arange(int((later + 1).sum())) - begins.repeat_interleave(later + 1)
        # The prefix that ends one click earlier stands one place before.
        windows = self._prefixes.latest(n).batch((self.index - later).repeat_interleave(later + 1) + steps)
        window = at(begins.to(self.lengths.device, non_blocking=True), self._owner)
        row = at(windows.clicks.first, window + (self.clicks.position - n + 1).clamp(min=0))
        return windows, row + self.clicks.position.clamp(max=n - 1)

    @cached_property
    def targets(self) -> Tensor:
        """The item clicked after each session, [B]."""
        return at(self._prefixes.items, self._end + 1).long()

    @cached_property
    def items(self) -> Tensor:
        """Item numbers [B, L], padded with 0 on the right."""
        return self.clicks.padded(self.clicks.items)

    @cached_property
    def _place(self) -> Tensor:
        """The place of each click in the data, [C]."""
        first = self.lengths.cumsum(0) - self.lengths
        return torch.arange(len(self._owner), device=self._owner.device) + at(self._start - first, self._owner)

    @cached_property
    def _owner(self) -> Tensor:
        B, C = len(self), int(self.host_lengths.sum())
        return torch.arange(B, device=self.lengths.device).repeat_interleave(self.lengths, output_size=C)

    @cached_property
    def clicks(self) -> Clicks:
        items = at(self._prefixes.items, self._place).long()
        return Clicks(self._owner, len(self), items, self.lengths, self.host_lengths)

    @cached_property
    def targets_of_clicks(self) -> Tensor:
        """The item clicked after each click, [C]."""
        return at(self._prefixes.items, self._place + 1).long()

    @cached_property
    def nodes(self) -> Nodes:
        known, clicks = self._prefixes.structure, self.clicks
        n, row = int(at(known.nodes, self.index).sum()), torch.arange(len(clicks), device=self._owner.device)
        back = at(known.back, self._place)
        is_new = back > clicks.position  # its item has no earlier click that is kept
        first = torch.where(is_new, row, row - back)
        for _ in range(max(0, known.repeats - 2).bit_length()):  # each goes twice as far back
            first = at(first, first)
        node = is_new.cumsum(0) - 1  # of the clicks that are new
        rows = _where(is_new, node, n)  # [N]
        return Nodes(at(self._owner, rows), len(self), at(clicks.items, rows), at(node, first), rows)

    @cached_property
    def edges(self) -> Edges:
        known, clicks, nodes = self._prefixes.structure, self.clicks, self.nodes
        n = int(at(known.edges, self.index).sum())
        # A transition begins one click before it ends: that click has to be kept too.
        is_new = (at(known.edge_back, self._place) >= clicks.position) & (clicks.position > 0)
        rows = _where(is_new, is_new.cumsum(0) - 1, n)  # [E] the clicks that end them
        return Edges(at(nodes.of_click, rows - 1), at(nodes.of_click, rows), len(nodes))

    @cached_property
    def transitions(self) -> Transitions:
        known, clicks, nodes = self._prefixes.structure, self.clicks, self.nodes
        E, device = len(clicks) - len(self), self._owner.device
        owner = torch.arange(len(self), device=device).repeat_interleave(self.lengths - 1, output_size=E)
        rows = torch.arange(E, device=device) + owner + 1  # the clicks that end them
        target, visits = at(nodes.of_click, rows), at(known.visits, self._place).long()
        # No transition leads to the first click of a session.
        before = at(visits, nodes.first) + (nodes.first == nodes.spread(clicks.first))
        slot = at(visits, rows) - at(before, target)
        arrivals = at(self._prefixes.arrivals, self.index).sum(0).tolist()
        return Transitions(at(nodes.of_click, rows - 1), target, len(nodes), slot, [n for n in arrivals if n])

    @cached_property
    def shortcuts(self) -> Edges:
        """An edge from each node to every node of the session that has a click at the same time or later."""
        clicks, nodes, host_count = self.clicks, self.nodes, at(self._prefixes.structure.nodes, self.index)
        n, device = int(at(self._prefixes.shortcuts, self.index).sum()), self._owner.device
        last = torch.zeros_like(nodes.owner).scatter_reduce(
            0, nodes.of_click, torch.arange(len(clicks), device=device), "amax"
        )  # [N] the last click on each node
        # All pairs of nodes of a session, by their targets: each node has a run of sources.
        count = host_count.to(device, non_blocking=True)  # [B]
        runs, pairs = nodes.spread(count), int(host_count.square().sum())
        target = torch.arange(len(nodes), device=device).repeat_interleave(runs, output_size=pairs)
        before = runs.cumsum(0) - runs - nodes.spread(count.cumsum(0) - count)
        source = torch.arange(pairs, device=device) - at(before, target)
        is_one = at(nodes.first, source) <= at(last, target)
        rows = _where(is_one, is_one.cumsum(0) - 1, n)
        return Edges(at(source, rows), at(target, rows), len(nodes))


def _where(chosen: Tensor, number: Tensor, n: int) -> Tensor:
    """The n places that are `chosen` (bool), given the `number` of each: nonzero() with n known beforehand."""
    places = torch.arange(len(chosen), device=chosen.device)
    return places.new_empty(n + 1).scatter_(0, torch.where(chosen, number, n), places)[:n]


def at(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first dimension, in half the time that brackets take."""
    return x.index_select(0, index)
