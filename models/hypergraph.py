"""The hypergraph of a training set: its hyperedges are the sets of items of the training prefixes.

P = D^-1 H B^-1 H^T averages twice: over the items of each prefix, then over the prefixes of each item. H [V, prefixes]
says which items a prefix holds, D [V] counts the prefixes of each item, B the items of each prefix. The rows of P sum
to 1, and are zero for an item that no prefix holds. No target enters but as a click of a longer prefix.

D width, V items; E is the item table.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.batch import Prefixes, at
from models.order import neighbours_near
from models.structure import NEVER

OTHER = (
    "the weights were trained with the hypergraph of other sessions than those that this model was prepared with; "
    "prepare it with the training sessions of that run"
)
UNPREPARED = "the weights need the hypergraph of their training sessions: call prepare(sessions) before you evaluate"


class Hypergraph(nn.Module):
    """The mean of E, P E, ..., P^L E.

    Before `prepare` there are no hyperedges, and P is zero. P is no part of the state of a model: `prepare` makes it
    again. The state has a digest of the sessions, so that weights meet no other hypergraph than their own.

    least  entries of P below this are left out
    """

    neighbours: Any  # None before `prepare`, as are the others
    values: Tensor
    values_back: Tensor
    order: Tensor  # [V] the items as P has them: items of the same sessions are near, which saves half of the time
    place: Tensor  # [V] where each item is in that order

    def __init__(self, layers: int, least: float = 0.0) -> None:
        super().__init__()
        self.layers, self.least = layers, least
        self.register_buffer("made_of", torch.zeros(32, dtype=torch.uint8))
        # P is symmetric but for its values: rows of P and of its transpose have the same neighbours.
        for name in ("start", "neighbours", "values", "values_back", "order", "place"):
            self.register_buffer(name, None, persistent=False)

    def prepare(self, sessions: Any, E: Tensor) -> None:
        """Make P from training sessions, for the items of the table E, in its type and on its device."""
        V, (row, column, shared, prefixes_of) = len(E), shared_prefixes(sessions, len(E))
        values, values_back = shared / at(prefixes_of, row), shared / at(prefixes_of, column)
        order = neighbours_near(row, column, values + values_back, V)
        place = torch.empty_like(order).index_copy_(0, order, torch.arange(V))
        row, column = at(place, row), at(place, column)
        by_row = (row * V + column).argsort()
        start = F.pad(torch.bincount(row, minlength=V).cumsum(0), (1, 0))[:-1]
        self.start, self.neighbours = start.int().to(E.device), at(column, by_row).int().to(E.device)
        self.order, self.place = order.to(E.device), place.to(E.device)
        for name, P in (("values", values), ("values_back", values_back)):
            setattr(self, name, torch.where(self.least > P, 0, P)[by_row].to(E))
        self.made_of = _digest(sessions).to(E.device)

    def forward(self, E: Tensor) -> Tensor:
        if self.neighbours is None:
            if not self.training and bool(self.made_of.any()):
                raise ValueError(UNPREPARED)
            return E / (self.layers + 1)
        S: Tensor = _Propagation.apply(E, self)  # type: ignore[no-untyped-call]
        return S

    def mean_of_powers(self, E: Tensor, values: Tensor) -> Tensor:
        """(E + P (E + P (E + ...))) / (L + 1): no power is kept.

        On a CPU sums as F.embedding_bag makes them take half the time of a product with a sparse matrix.
        """
        E = at(E, self.order).div_(self.layers + 1)
        X = E
        for _ in range(self.layers):
            X = F.embedding_bag(self.neighbours, X, self.start, mode="sum", per_sample_weights=values).add_(E)
        return at(X, self.place)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state.get(f"{prefix}made_of")
        if self.neighbours is not None and saved is not None and not torch.equal(saved.cpu(), self.made_of.cpu()):
            raise ValueError(OTHER)
        super()._load_from_state_dict(state, prefix, *rest)


class _Propagation(torch.autograd.Function):
    """The backward pass is the same with the transpose of P."""

    @staticmethod
    def forward(ctx: Any, E: Tensor, graph: Hypergraph) -> Tensor:
        ctx.graph, ctx.values_back = graph, graph.values_back
        return graph.mean_of_powers(E, graph.values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.graph.mean_of_powers(grads[0], ctx.values_back), None


def shared_prefixes(sessions: Any, n_items: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W = H B^-1 H^T by its entries: (row, column, value) of each, row by row; and D [V]. Items count from 0.

    W_uv adds 1 / (items of p) over the prefixes p that hold u and v. In a session these are all prefixes from the first
    click on the later of both, so a session of n items has n^2 pairs, whatever its number of prefixes.
    """
    prefixes = Prefixes(sessions.items, sessions.offsets)
    known, items = prefixes.structure, at(prefixes.items, prefixes.end).long() - 1  # [P] of the click that ends it
    if len(items) and int(items.max()) >= n_items:
        raise ValueError(f"the sessions have an item {int(items.max()) + 1}, and the model has {n_items} items")
    session = (prefixes.length == 1).cumsum(0) - 1
    stop = at(torch.bincount(session).cumsum(0), session)  # [P] where the prefixes of the session end
    onwards = F.pad((1 / known.nodes.double()).flip(0).cumsum(0).flip(0), (0, 1))  # [P + 1]
    from_here = onwards[:-1] - at(onwards, stop)  # [P] 1 / items, over this prefix and those that follow
    new = at(known.back, prefixes.end) == NEVER  # the prefix is the first one with this item
    item, from_here, rank = items[new], from_here[new], known.nodes[new]  # [N] by session, in order of first clicks
    prefixes_of = torch.zeros(n_items, dtype=torch.double)
    prefixes_of.index_add_(0, item, (stop - torch.arange(len(stop)))[new].double())
    later = torch.arange(len(item)).repeat_interleave(rank)  # each item with itself and with those before it
    back = at(rank.cumsum(0), later) - 1 - torch.arange(len(later))
    earlier, value = later - back, at(from_here, later)
    one, other, two = at(item, later), at(item, earlier), back > 0
    pairs = torch.stack([torch.cat([one, other[two]]), torch.cat([other, one[two]])])
    W = torch.sparse_coo_tensor(pairs, torch.cat([value, value[two]]), (n_items, n_items), check_invariants=True)
    W = W.coalesce()
    return *W.indices(), W.values(), prefixes_of


def _digest(sessions: Any) -> Tensor:
    """32 bytes that tell sets of sessions apart."""
    parts = (torch.tensor(sessions.items, dtype=torch.int32), torch.tensor(sessions.offsets, dtype=torch.int64))
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)
