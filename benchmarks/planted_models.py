"""Small models with planted parts, for the truth test of the instrument (benchmarks/truth.py).

They are dissected as a user's own are: `dissect run --model benchmarks/planted_models.py:Attentive`. What a part is
worth depends on the data (benchmarks/planted_sets.py); its role says which part is on trial.

Letters as in models/base.py: B sessions, C clicks, D width, V items.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, lookup
from models.batch import Batch
from models.rows import Clicks


class Planted(SessionModel):
    """What they share: an item table, and a session vector from the states of the clicks."""

    def __init__(self, n_items: int, dim: int) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]

    def start(self, dim: int) -> None:
        """Initial parameters: those of the field, and a table large enough for products of states to learn at once."""
        init_uniform(self, dim)
        with torch.no_grad():
            self.items.uniform_(-1, 1)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        return self.vectors(lookup(S, batch.clicks.items), batch.clicks)

    def vectors(self, h: Tensor, clicks: Clicks) -> Tensor:
        """Session vectors [B, D] from the states of the clicks [C, D]."""
        raise NotImplementedError


def mean_before(h: Tensor, clicks: Clicks) -> Tensor:
    """The mean of the clicks before the last one, [C, D] -> [B, D]; 0 if there are none."""
    return (clicks.sum(h) - h[clicks.last]) / (clicks.lengths - 1).clamp(min=1)[:, None]


class Attentive(Planted):
    """Attention to the clicks before the last, which is the query; then a linear map of their weighted mean and of it.

    Without attention all clicks have the same weight; the two matrices at 0 give the same model.
    """

    matrices: ClassVar = {
        "query": Matrix("attention", "readout"),
        "key": Matrix("attention", "readout"),
        "transform": Matrix("transformation", "readout", cols=("before", "last")),
    }
    removable = ("attention",)

    def __init__(self, n_items: int, dim: int = 16, without: Collection[str] = ()) -> None:
        super().__init__(n_items, dim)
        attends = "attention" not in without
        self.query: Any = nn.Linear(dim, dim) if attends else None
        self.key: Any = nn.Linear(dim, dim, bias=False) if attends else None
        self.transform = nn.Linear(2 * dim, dim)
        self.start(dim)

    def vectors(self, h: Tensor, clicks: Clicks) -> Tensor:
        last = h[clicks.last]  # [B, D]
        logits = h.new_zeros(len(h), 1)
        if self.query is not None and self.switched_off != "attention":
            logits = (clicks.spread(self.query(last)) * self.key(h)).sum(1, keepdim=True)  # [C, 1]
        before = (clicks.from_end > 0)[:, None]  # the query does not attend to itself
        overall = clicks.sum(clicks.softmax(logits - 1e4 * ~before) * h * before)
        return self.transform(torch.cat([overall, last], 1))


class Recurrent(Planted):
    """A GRU over the clicks before the last, beside a linear map of the last click and the mean of those before."""

    matrices: ClassVar = {
        "gru.weight_ih_l0": Matrix("encoder", "encoder", rows=("r", "z", "n")),
        "gru.weight_hh_l0": Matrix("encoder", "encoder", rows=("r", "z", "n")),
        "transform": Matrix("transformation", "readout", cols=("before", "last")),
    }
    removable = ("encoder",)

    def __init__(self, n_items: int, dim: int = 16, without: Collection[str] = ()) -> None:
        super().__init__(n_items, dim)
        self.gru: Any = nn.GRU(dim, dim, batch_first=True) if "encoder" not in without else None
        self.transform = nn.Linear(2 * dim, dim)
        self.start(dim)

    def vectors(self, h: Tensor, clicks: Clicks) -> Tensor:
        vectors = self.transform(torch.cat([mean_before(h, clicks), h[clicks.last]], 1))
        if self.gru is None or self.switched_off == "encoder":
            return vectors
        states = clicks.unpadded(self.gru(clicks.padded(h))[0])  # [C, D]; padding comes after the last click
        before = (clicks.last - 1).clamp(min=0)  # 0 where a session has one click
        return vectors + states[before] * (clicks.lengths > 1)[:, None]


class Branches(Planted):
    """The sum of three linear maps: of the last click, of the mean of those before, and of a hash of those before.

    The hash is D signs, or 0 without a click before. Each is a product over the clicks of a random sign of the item: of
    several clicks it tells nothing about any of them alone.
    """

    matrices: ClassVar = {
        "of_before": Matrix("transformation", "readout"),
        "of_last": Matrix("encoder", "encoder"),
        "of_hash": Matrix("update", "other"),
    }
    removable = ("transformation", "encoder", "update")

    def __init__(self, n_items: int, dim: int = 16, without: Collection[str] = ()) -> None:
        super().__init__(n_items, dim)
        self.of_before: Any = nn.Linear(dim, dim, bias=False) if "transformation" not in without else None
        self.of_last: Any = nn.Linear(dim, dim, bias=False) if "encoder" not in without else None
        self.of_hash: Any = nn.Linear(dim, dim, bias=False) if "update" not in without else None
        self.bias = nn.Parameter(torch.zeros(dim))
        self.start(dim)
        odd = torch.randint(2, (n_items, dim), generator=torch.Generator().manual_seed(1)).float()
        self.register_buffer("odd", odd)  # [V, D] 1 for a sign of -1

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.clicks
        h = lookup(S, clicks.items)
        vectors = self.bias.expand(len(batch), -1)
        if self.of_before is not None and self.switched_off != "transformation":
            vectors = vectors + self.of_before(mean_before(h, clicks))
        if self.of_last is not None and self.switched_off != "encoder":
            vectors = vectors + self.of_last(h[clicks.last])
        if self.of_hash is not None and self.switched_off != "update":
            odd = lookup(self.odd, clicks.items)
            signs = 1 - 2 * ((clicks.sum(odd) - odd[clicks.last]) % 2)
            vectors = vectors + self.of_hash(signs * (clicks.lengths > 1)[:, None])
        return vectors


class Pair(Planted):
    """The sum of three linear maps: of the mean of the clicks before the last, and two of the last: one would do."""

    matrices: ClassVar = {
        "of_before": Matrix("transformation", "readout"),
        "of_last": Matrix("encoder", "encoder"),
        "of_last_too": Matrix("update", "encoder"),
    }
    removable = ("encoder", "update")

    def __init__(self, n_items: int, dim: int = 16, without: Collection[str] = ()) -> None:
        super().__init__(n_items, dim)
        self.of_before = nn.Linear(dim, dim)
        self.of_last: Any = nn.Linear(dim, dim) if "encoder" not in without else None
        self.of_last_too: Any = nn.Linear(dim, dim) if "update" not in without else None
        self.start(dim)

    def vectors(self, h: Tensor, clicks: Clicks) -> Tensor:
        vectors, last = self.of_before(mean_before(h, clicks)), h[clicks.last]
        if self.of_last is not None and self.switched_off != "encoder":
            vectors = vectors + self.of_last(last)
        if self.of_last_too is not None and self.switched_off != "update":
            vectors = vectors + self.of_last_too(last)
        return vectors


class FirstAndLast(Planted):
    """A vector of the first click, looked up and not mapped, beside linear maps of the last and of those before."""

    matrices: ClassVar = {
        "of_before": Matrix("transformation", "readout"),
        "of_last": Matrix("encoder", "encoder"),
    }
    removable = ("encoder",)

    def __init__(self, n_items: int, dim: int = 16, without: Collection[str] = ()) -> None:
        super().__init__(n_items, dim)
        self.of_first = nn.Embedding(n_items + 1, dim, padding_idx=0)
        self.of_before = nn.Linear(dim, dim)
        self.of_last: Any = nn.Linear(dim, dim) if "encoder" not in without else None
        self.start(dim)

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.clicks
        h = lookup(S, clicks.items)
        vectors = self.of_first(clicks.items[clicks.first]) + self.of_before(mean_before(h, clicks))
        if self.of_last is None or self.switched_off == "encoder":
            return vectors
        return vectors + self.of_last(h[clicks.last])
