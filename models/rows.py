"""Rows with owners: sessions, clicks, nodes and edges without padding.

A batch of B sessions has C clicks, N nodes (different items) and E edges (different transitions). Clicks and nodes are
owned by sessions, edges by nodes. The states of all rows are one tensor, [C, D] or [N, D]. Prefixes of Diginetica have
4.1 clicks on average and up to 69: a padded batch would be mostly padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from models.kernels import dots_by_length


@dataclass(frozen=True)
class Rows:
    """n rows, each with one of `n_owners` owners."""

    owner: Tensor  # [n]
    n_owners: int

    def __len__(self) -> int:
        return len(self.owner)

    def spread(self, x: Tensor) -> Tensor:
        """The value of each row's owner: [owners, ...] -> [n, ...]."""
        return x.index_select(0, self.owner)

    def sum(self, x: Tensor) -> Tensor:
        """Over the rows of each owner: [n, ...] -> [owners, ...]; 0 for an owner without rows."""
        return x.new_zeros(self.n_owners, *x.shape[1:]).index_add(0, self.owner, x)

    @cached_property
    def count(self) -> Tensor:
        """Rows of each owner, float [owners]."""
        return self.sum(torch.ones(len(self.owner), device=self.owner.device))

    def mean(self, x: Tensor) -> Tensor:
        """Over the rows of each owner: [n, D] -> [owners, D]; 0 for an owner without rows."""
        return self.sum(x) / self.count.clamp(min=1).to(x.dtype)[:, None]

    def log_softmax(self, x: Tensor) -> Tensor:
        """Over the rows of each owner, column by column: [n, H] -> [n, H]."""
        index = self.owner[:, None].expand(x.shape)
        highest = x.new_full((self.n_owners, x.shape[1]), -torch.inf).scatter_reduce(0, index, x.detach(), "amax")
        x = x - self.spread(highest)
        return x - self.spread(self.sum(x.exp()).log())

    def softmax(self, x: Tensor) -> Tensor:
        """Over the rows of each owner, column by column: [n, H] -> [n, H]."""
        return self.log_softmax(x).exp()


@dataclass(frozen=True)
class Clicks(Rows):
    """The clicks of B sessions, session by session; `owner` is the session [C]."""

    items: Tensor  # [C] item numbers from 1
    lengths: Tensor  # [B] clicks of each session
    host_lengths: Tensor  # [B] the same, where Python can read them without asking a device

    @cached_property
    def first(self) -> Tensor:
        """The row of each session's first click, [B]."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def last(self) -> Tensor:
        """The row of each session's last click, [B]."""
        return self.lengths.cumsum(0) - 1

    @cached_property
    def position(self) -> Tensor:
        """The position of each click in its session, from 0, [C]."""
        return torch.arange(len(self), device=self.owner.device) - self.spread(self.first)

    @cached_property
    def from_end(self) -> Tensor:
        """Clicks that come after each click in its session, [C]; 0 for the last one."""
        return self.spread(self.last) - torch.arange(len(self), device=self.owner.device)

    @cached_property
    def width(self) -> int:
        """L, the clicks of the longest session."""
        return int(self.host_lengths.max()) if len(self.host_lengths) else 0

    def padded(self, x: Tensor, width: int | None = None) -> Tensor:
        """[C, ...] -> [B, L, ...], zeros on the right. L is `width`, which keeps the latest clicks, or the longest."""
        L = width or self.width
        place = self.position - self.spread((self.lengths - L).clamp(min=0))
        slot = torch.where(place >= 0, self.owner * L + place, self.n_owners * L)  # the last one is thrown away
        out = x.new_zeros(self.n_owners * L + 1, *x.shape[1:]).index_copy(0, slot, x)
        return out[:-1].view(self.n_owners, L, *x.shape[1:])

    def unpadded(self, x: Tensor) -> Tensor:
        """[B, L, ...] -> [C, ...]."""
        return x.flatten(0, 1).index_select(0, self.owner * x.shape[1] + self.position)

    def back(self, x: Tensor, steps: int) -> Tensor:
        """The row `steps` clicks before the last one: [C, D] -> [B, D]; 0 if the session is shorter."""
        there = self.lengths > steps
        return x.index_select(0, (self.last - steps).clamp(min=0)) * there[:, None]

    @cached_property
    def lone(self) -> int:
        """How many sessions of one click the batch begins with."""
        return int((self.host_lengths == 1).cumprod(0).sum())

    def after(self, lone: int) -> Clicks:
        """The clicks without those of the first `lone` sessions, which have one click each."""
        return Clicks(
            self.owner[lone:] - lone,
            self.n_owners - lone,
            self.items[lone:],
            self.lengths[lone:],
            self.host_lengths[lone:],
        )

    @cached_property
    def apart(self) -> tuple[Clicks, ...]:
        """The clicks of the first three quarters of the sessions, and those of the others; on a GPU all clicks at once.

        Sessions of a training batch stand in the order of their lengths, so padding each part by itself takes far less.
        On a GPU more calls cost more than the padding does.
        """
        if self.owner.device.type == "cuda":
            return (self,)
        b = self.n_owners * 3 // 4
        c = int(self.host_lengths[:b].sum())
        rest = self.owner[c:] - b, self.n_owners - b, self.items[c:], self.lengths[b:], self.host_lengths[b:]
        return Clicks(self.owner[:c], b, self.items[:c], self.lengths[:b], self.host_lengths[:b]), Clicks(*rest)

    def states(self, gru: nn.GRU, x: Tensor) -> Tensor:
        """The state of a GRU of one direction after each click, [C, D] -> [C, H]; no padding is computed."""
        # Packed: all first clicks, all second ones, ..., of the longest session first.
        rank = self.lengths.argsort(descending=True).argsort()  # [B]
        order = (self.position * self.n_owners + self.spread(rank)).argsort()  # [C]
        still_running = self.n_owners - self.host_lengths.bincount().cumsum(0)[:-1]  # [L] sessions at each step
        h = gru(PackedSequence(x.index_select(0, order), still_running))[0].data
        return torch.empty_like(h).index_copy(0, order, h)

    def weighted_sums(self, weights: Tensor, x: Tensor) -> Tensor:
        """Over the clicks of each session, with weights of H heads: [C, H], [C, D] -> [B, H, D]."""
        return self.sum(weights[..., None] * x[:, None])

    def dots(self, query: Tensor, key: Tensor) -> Tensor:
        """Products of each click's key with the queries of its session: [B, M, H, E], [C, H, E] -> [C, H, M]."""
        return dots_by_length(query, key, self.owner, self.host_lengths)


@dataclass(frozen=True)
class Nodes(Rows):
    """The different items of each session, in the order of their first clicks; `owner` is the session [N]."""

    items: Tensor  # [N] item numbers from 1
    of_click: Tensor  # [C] the node that each click visits
    first: Tensor  # [N] the row of the first click on it

    def to_clicks(self, x: Tensor) -> Tensor:
        """[N, ...] -> [C, ...]."""
        return x.index_select(0, self.of_click)


@dataclass(frozen=True)
class Edges:
    """Edges between nodes of a session. `batch.edges` are the different transitions, loops included; one seen twice
    counts once.
    """

    source: Tensor  # [E] node
    target: Tensor  # [E] node
    n_nodes: int

    @cached_property
    def into(self) -> Rows:
        """The edges by the node that they lead to."""
        return Rows(self.target, self.n_nodes)

    @cached_property
    def out_of(self) -> Rows:
        """The edges by the node that they leave."""
        return Rows(self.source, self.n_nodes)

    def mean_of_sources(self, x: Tensor) -> Tensor:
        """A_in X: for each node the mean over its predecessors, [N, D]; 0 if it has none."""
        return self.into.mean(self.out_of.spread(x))

    def mean_of_targets(self, x: Tensor) -> Tensor:
        """A_out X: for each node the mean over its successors, [N, D]; 0 if it has none."""
        return self.out_of.mean(self.into.spread(x))


@dataclass(frozen=True)
class Transitions(Edges):
    """The transitions of each session in the order of occurrence; one seen twice counts twice."""

    slot: Tensor  # [E] how many transitions into the same node came before
    arrivals: list[int]  # how many nodes have more than k transitions into them, for k from 0; on the host

    @cached_property
    def place(self) -> Tensor:
        """The place of each node if those with the most transitions into them come first, [N]."""
        order = self.into.count.argsort(descending=True, stable=True)
        return torch.empty_like(order).scatter_(0, order, torch.arange(self.n_nodes, device=order.device))

    @cached_property
    def by_slot(self) -> Tensor:
        """The transitions in the order of their slots, [E]; in each, targets are in the order of their places.

        So the targets of each slot are the first of those of the slot before, as in a packed sequence.
        """
        return (self.slot * self.n_nodes + self.place.index_select(0, self.target)).argsort()
