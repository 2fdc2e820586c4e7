"""The layers of LESSR (Chen and Wong, KDD 2020): edge-order preserving aggregation, and attention along shortcuts.

And its readout. B sessions, N nodes and E edges of a batch, D width, k the width of a layer's input: that of the items
and of all layers before it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Matrix
from models.dropout import dropout
from models.gnn import GATES, gru_state
from models.readout import additive
from models.rows import Edges, Nodes, Transitions


class Norm(nn.BatchNorm1d):
    """Batch norm of rows [N, k]. One row has no spread: it is normalised by the running statistics, and leaves them."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1 or not self.training:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class EOPA(nn.Module):
    """Edge-order preserving aggregation: a GRU over the transitions into each node, in their order.

    `blocks` names the parts of its input. Without `hears` nothing comes from the neighbours. Without `in_order` each
    transition is read alone, and the mean is taken.
    """

    def __init__(self, blocks: tuple[str, ...], dim: int, p: float, hears: bool = True, in_order: bool = True) -> None:
        super().__init__()
        k, self.p = len(blocks) * dim, p
        self.norm, self.act = Norm(k), nn.PReLU(dim)
        self.own = nn.Linear(k, dim, bias=False)
        self.matrices = {"own": Matrix("update", "gnn", cols=blocks)}
        self.neighbours: Any = nn.Linear(k, dim, bias=False) if hears else None
        self.gate_ih: Any = nn.Linear(k, 3 * k) if hears else None  # they begin as those of nn.GRU do
        self.gate_hh: Any = nn.Linear(k, 3 * k) if hears and in_order else None
        self.gate_bias: Any = nn.Parameter(torch.zeros(3 * k)) if hears and not in_order else None
        if hears:
            self.matrices["gate_ih"] = Matrix("update", "gnn", rows=GATES, cols=blocks)
            self.matrices["neighbours"] = Matrix("propagation", "gnn", cols=blocks)
        if hears and in_order:
            self.matrices["gate_hh"] = Matrix("update", "gnn", rows=GATES, cols=blocks, part="order")

    def forward(self, x: Tensor, edges: Transitions, off: str | None) -> Tensor:
        x = self.norm(x)  # [N, k]
        out = self.own(x)  # [N, D]
        if self.neighbours is not None and off != "propagation":
            x = dropout(x, self.p, self.training)
            heard = self.mean if self.gate_hh is None or off == "order" else self.last_state
            out = out + self.neighbours(heard(x, edges))
        return self.act(out)

    def last_state(self, x: Tensor, edges: Transitions) -> Tensor:
        """The last state of each node's GRU, [N, k]; 0 for a node without transitions into it."""
        # Two slots at least, if need be without rows: then both matrices get a gradient in every batch.
        sizes = (*edges.arrivals, 0, 0)[: max(2, len(edges.arrivals))]
        gates = self.gate_ih(x.index_select(0, edges.source.index_select(0, edges.by_slot)))  # [E, 3k]
        h, done = x.new_zeros(sizes[0], x.shape[1]), [x.new_zeros(len(x) - sizes[0], x.shape[1])]
        for slot, gate in enumerate(gates.split(sizes)):
            h, ended = h[: len(gate)], h[len(gate) :]
            done.append(ended)
            h = gru_state(gate, self.gate_hh(h) if slot else self.gate_hh.bias, h)
        return torch.cat([h, *reversed(done)]).index_select(0, edges.place)

    def mean(self, x: Tensor, edges: Transitions) -> Tensor:
        """The mean over the transitions into each node of what a GRU makes of each alone, [N, k]."""
        bias = self.gate_bias if self.gate_hh is None else self.gate_hh.bias
        gates = self.gate_ih(edges.out_of.spread(x))  # [E, 3k]
        return edges.into.mean(gru_state(gates, bias, x.new_zeros(1, x.shape[1])))


class SGAT(nn.Module):
    """Attention along shortcuts, from each node to all that have a click at the same time or later."""

    def __init__(self, blocks: tuple[str, ...], dim: int, p: float) -> None:
        super().__init__()
        k, self.p = len(blocks) * dim, p
        self.norm, self.act = Norm(k), nn.PReLU(dim)
        self.query = nn.Linear(k, dim)
        self.key, self.value = nn.Linear(k, dim, bias=False), nn.Linear(k, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)
        self.matrices = {n: Matrix("propagation", "gnn", (), blocks, "shortcut") for n in ("query", "key", "value")}
        self.matrices["score"] = Matrix("propagation", "gnn", part="shortcut")

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        x = dropout(self.norm(x), self.p, self.training)  # [N, k]
        e = self.score(torch.sigmoid(edges.out_of.spread(self.query(x)) + edges.into.spread(self.key(x))))  # [E, 1]
        return self.act(edges.into.sum(edges.into.softmax(e) * edges.out_of.spread(self.value(x))))  # [N, D]


class Readout(nn.Module):
    """Attention over the nodes with the last one as the query, beside the state of the last one."""

    def __init__(self, blocks: tuple[str, ...], dim: int, p: float, attend: bool = True) -> None:
        super().__init__()
        k, self.p = len(blocks) * dim, p
        self.norm, self.act, self.last_norm = Norm(k), nn.PReLU(dim), Norm(k + dim)
        self.attend_all: Any = nn.Linear(k, dim, bias=False) if attend else None
        self.attend_last: Any = nn.Linear(k, dim) if attend else None
        self.attend_score: Any = nn.Linear(dim, 1, bias=False) if attend else None
        self.overall, self.transform = nn.Linear(k, dim, bias=False), nn.Linear(k + dim, dim, bias=False)
        self.matrices = {
            "overall": Matrix("transformation", "readout", cols=blocks),
            "transform": Matrix("transformation", "readout", cols=(*blocks, "overall")),
        }
        if attend:
            self.matrices |= {n: Matrix("attention", "readout", cols=blocks) for n in ("attend_all", "attend_last")}
            self.matrices["attend_score"] = Matrix("attention", "readout")

    def forward(self, x: Tensor, nodes: Nodes, last: Tensor, uniform: bool = False) -> Tensor:
        """Session vectors [B, D] from node states [N, k] and the nodes `last` [B]; `uniform` weighs nodes alike."""
        h = dropout(self.norm(x), self.p, self.training)
        if self.attend_score is None or uniform:
            overall = nodes.mean(h)  # [B, k]
        else:
            query, keys = self.attend_last(h.index_select(0, last)), self.attend_all(h)
            overall = additive(self.attend_score, query, keys, h, nodes, softmax=True)
        s = torch.cat([x.index_select(0, last), self.act(self.overall(overall))], 1)  # [B, k + D]
        return self.transform(dropout(self.last_norm(s), self.p, self.training))
