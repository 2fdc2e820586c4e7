"""A batch as plain tensors of one layout, for exporters such as ONNX, which follow tensors and not Python.

A session of L places has L rows for its clicks and L for its nodes; rows that are no click, or no first click on an
item, take no part. It costs more than rows without padding (models/batch.py), and gives the same. What a model may ask
is what can be said in such tensors: no windows, transitions or shortcuts.

B sessions, L places, D width, H heads; rows are [B L, ...], session by session.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn


class PaddedRows:
    """B L rows, of which those count that are `there` (bool [B, L])."""

    def __init__(self, there: Tensor) -> None:
        self.there = there
        self.B, self.L = there.shape
        self.n_owners = self.B

    def __len__(self) -> int:
        return self.B * self.L

    def spread(self, x: Tensor) -> Tensor:
        """The value of each row's session: [B, ...] -> [B L, ...]."""
        return x[:, None].expand(-1, self.L, *x.shape[1:]).flatten(0, 1)

    def square(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """[B L, ...] -> [B, L, ...], with `fill` where no row is."""
        x = x.unflatten(0, (self.B, self.L))
        return torch.where(self.there.view(self.B, self.L, *(1 for _ in x.shape[2:])), x, fill)

    def sum(self, x: Tensor) -> Tensor:
        """Over the rows of each session: [B L, ...] -> [B, ...]."""
        return self.square(x).sum(1)

    @cached_property
    def count(self) -> Tensor:
        """Rows of each session, float [B]."""
        return self.there.sum(1).float()

    def mean(self, x: Tensor) -> Tensor:
        """Over the rows of each session: [B L, D] -> [B, D]."""
        return self.sum(x) / self.count.clamp(min=1).to(x.dtype)[:, None]

    def log_softmax(self, x: Tensor) -> Tensor:
        """Over the rows of each session, column by column: [B L, H] -> [B L, H]; minus infinity where no row is."""
        return self.square(x, -torch.inf).log_softmax(1).flatten(0, 1)

    def softmax(self, x: Tensor) -> Tensor:
        """Over the rows of each session, column by column: [B L, H] -> [B L, H]."""
        return self.log_softmax(x).exp()


class PaddedClicks(PaddedRows):
    """The clicks of B sessions; items are those of `PaddedBatch`."""

    def __init__(self, items: Tensor, lengths: Tensor) -> None:
        self.place = torch.arange(items.shape[1], device=items.device)  # [L]
        super().__init__(self.place < lengths[:, None])
        self.items, self.lengths, self.width = items.flatten(), lengths, self.L
        self.first = torch.arange(self.B, device=items.device) * self.L  # [B]
        self.last = self.first + lengths - 1
        self.lone, self.apart = 0, (self,)

    @cached_property
    def position(self) -> Tensor:
        return self.place.expand(self.B, -1).flatten()

    @cached_property
    def from_end(self) -> Tensor:
        return (self.lengths[:, None] - 1 - self.place).clamp(min=0).flatten()

    def padded(self, x: Tensor, width: int | None = None) -> Tensor:
        if width is not None:
            raise NotImplementedError(f"a layout of the last {width} clicks only (its padded_length - 1)")
        return self.square(x)

    def unpadded(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def back(self, x: Tensor, steps: int) -> Tensor:
        row = self.first + (self.lengths - 1 - steps).clamp(min=0)
        return x.index_select(0, row) * (self.lengths > steps)[:, None]

    def after(self, lone: int) -> PaddedClicks:
        return self

    def states(self, gru: Any, x: Tensor) -> Tensor:
        """Later steps do not change earlier ones, so what a GRU makes of padding is never read."""
        x = self.square(x)
        return gru(x if gru.batch_first else x.transpose(0, 1))[0].flatten(0, 1)

    def weighted_sums(self, weights: Tensor, x: Tensor) -> Tensor:
        return self.square(weights).transpose(1, 2) @ self.square(x)

    def dots(self, query: Tensor, key: Tensor) -> Tensor:
        return torch.einsum("bmhe,blhe->blhm", query, self.square(key)).flatten(0, 1)


class PaddedNodes(PaddedRows):
    """The different items of each session, each in the row of its first click."""

    def __init__(self, clicks: PaddedClicks) -> None:
        items = clicks.items.view(clicks.B, clicks.L)
        same = (items[:, :, None] == items[:, None]) & clicks.there[:, None]  # [B, L, L]
        first = same.int().argmax(2)  # [B, L] the place of the first click on the item
        super().__init__((first == clicks.place) & clicks.there)
        self.items = clicks.items
        self.visits = (first[:, :, None] == clicks.place) & clicks.there[:, :, None]  # [B, click, node]
        self.of_click = (clicks.first[:, None] + first).flatten()  # [B L]
        self.first = clicks.first[:, None].expand(-1, clicks.L).flatten() + clicks.position

    def to_clicks(self, x: Tensor) -> Tensor:
        return x.index_select(0, self.of_click)


class PaddedEdges:
    """The different transitions of each session as matrices A [B, source, target] of zeros and ones."""

    def __init__(self, nodes: PaddedNodes) -> None:
        visits = nodes.visits.float()
        self.A = (visits[:, :-1].transpose(1, 2) @ visits[:, 1:]).clamp(max=1)
        self.into, self.out_of = Degree(self.A.sum(1).flatten()), Degree(self.A.sum(2).flatten())
        self.B, self.L = nodes.B, nodes.L

    def mean_of_sources(self, x: Tensor) -> Tensor:
        return self._mean(self.A.transpose(1, 2), x, self.into.count)

    def mean_of_targets(self, x: Tensor) -> Tensor:
        return self._mean(self.A, x, self.out_of.count)

    def _mean(self, A: Tensor, x: Tensor, count: Tensor) -> Tensor:
        total = (A.to(x.dtype) @ x.unflatten(0, (self.B, self.L))).flatten(0, 1)
        return total / count.clamp(min=1).to(x.dtype)[:, None]


class Degree:
    """How many edges lead into each node, or out of it: float [B L]."""

    def __init__(self, count: Tensor) -> None:
        self.count = count


class PaddedBatch:
    """B sessions: `items` [B, L], 0 pads on the right, and `lengths` [B], from 1 to L."""

    def __init__(self, items: Tensor, lengths: Tensor) -> None:
        self.items, self.lengths = items, lengths
        self.clicks = PaddedClicks(items.clamp(min=1), lengths)

    @cached_property
    def nodes(self) -> PaddedNodes:
        return PaddedNodes(self.clicks)

    @cached_property
    def edges(self) -> PaddedEdges:
        return PaddedEdges(self.nodes)

    def latest(self, n: int) -> PaddedBatch:
        """The last n clicks of each session, in n places."""
        kept = self.lengths.clamp(max=n)
        place = torch.arange(n, device=self.items.device)
        source = ((self.lengths - kept)[:, None] + place).clamp(max=self.items.shape[1] - 1)
        return PaddedBatch(torch.where(place < kept[:, None], self.items.gather(1, source), 0), kept)


class Scoring(nn.Module):
    """A model whose inputs are tensors: items [B, L] and lengths [B] -> scores [B, V]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        batch: Any = PaddedBatch(items, lengths)
        S = self.model.item_states()
        matrix, bias = self.model.candidates(S)
        scores = self.model.encode(S, batch) @ matrix.t()
        return scores if bias is None else scores + bias
