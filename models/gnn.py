"""Gated propagation over session graphs, the GNN that SR-GNN, GC-SAN, SGNN-HN and NISER+ share; SGNN-HN's star.

B sessions of a batch, N nodes, E edges, D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix
from models.rows import Edges, Nodes

GATES = ("r", "z", "n")


class GatedPropagation(nn.Module):
    """Equations 1 to 5 of SR-GNN (AAAI 2019), as its authors' code computes them: binary edges, nn.GRUCell's gates.

    steps      how often the states are propagated, with the same weights
    map_first  A (H W), as the authors wrote it, instead of (A H) W. Without noise on W the two are equal; with it only
               the second has the right variance per node
    listens    False leaves the messages out: of the input of each gate only the bias remains
    """

    matrices: ClassVar = {
        "edge_in": Matrix("propagation", "gnn"),  # [D, D]
        "edge_out": Matrix("propagation", "gnn"),  # [D, D]
        "gate_ih": Matrix("update", "gnn", rows=GATES, cols=("in", "out")),  # [3D, 2D]
        "gate_hh": Matrix("update", "gnn", rows=GATES),  # [3D, D]
    }

    # Without messages, the first five are None; with them, the last.
    edge_in: Any
    edge_out: Any
    bias_along: Any
    bias_node: Any
    gate_ih: Any
    gate_bias: Any

    def __init__(self, dim: int, steps: int = 1, map_first: bool = False, listens: bool = True) -> None:
        super().__init__()
        self.steps, self.map_first = steps, map_first
        self.gate_hh = nn.Linear(dim, 3 * dim)
        self.edge_in = nn.Linear(dim, dim, bias=False) if listens else None
        self.edge_out = nn.Linear(dim, dim, bias=False) if listens else None
        # Each direction has a bias that travels along edges and one that every node gets.
        self.bias_along = nn.Parameter(torch.empty(2, dim)) if listens else None
        self.bias_node = nn.Parameter(torch.empty(2, dim)) if listens else None
        self.gate_ih = nn.Linear(2 * dim, 3 * dim) if listens else None
        self.gate_bias = None if listens else nn.Parameter(torch.empty(3 * dim))

    def forward(self, h: Tensor, edges: Edges, listens: bool = True) -> Tensor:
        """States [N, D] after `steps` propagations; `listens=False` switches the messages of a trained model off."""
        for _ in range(self.steps):
            if self.gate_ih is None:
                gates = self.gate_bias  # [3D]
            else:  # [N, 3D], or [3D] without messages
                gates = self.gate_ih(self.messages(h, edges)) if listens else self.gate_ih.bias
            h = self.update(gates, h)
        return h

    def messages(self, h: Tensor, edges: Edges) -> Tensor:
        """a_v of Equation 1, [N, 2D]: what each node hears from its predecessors and from its successors."""
        heard = []
        for side, weight, mean, has_any in (
            (0, self.edge_in, edges.mean_of_sources, edges.into.count.sign()),
            (1, self.edge_out, edges.mean_of_targets, edges.out_of.count.sign()),
        ):
            along = mean(weight(h)) if self.map_first else weight(mean(h))  # A (H W) or (A H) W
            # The mean of a constant over neighbours is that constant, or zero if there are none.
            constant = torch.addcmul(self.bias_node[side], has_any[:, None].to(h.dtype), self.bias_along[side])
            heard.append(along + constant)
        return torch.cat(heard, 1)

    def update(self, gates: Tensor, h: Tensor) -> Tensor:
        """Equations 2 to 5: nn.GRUCell, where `gates` is the contribution of the input."""
        return gru_state(gates, self.gate_hh(h), h)


def gru_state(gi: Tensor, gh: Tensor, h: Tensor) -> Tensor:
    """The next state [n, D] of a GRU from state h, and its gates [n, 3D] by the input and by the state."""
    i_r, i_z, i_n = gi.chunk(3, -1)
    h_r, h_z, h_n = gh.chunk(3, -1)  # [n, D] each
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    return n + z * (h - n)


class StarStep(nn.Module):
    """A step of the star of SGNN-HN (CIKM 2020), a node of each session that is linked to all of its nodes.

    Every node takes in some of the star; then the star attends to the nodes.

    mapped  the paper's form: four matrices, a gate without bounds, logits divided by sqrt(D); otherwise the form of its
            descendants: no matrices, a gate that is a sigmoid, plain products as logits
    """

    # The paper's W_q1, W_k1, W_q2, W_k2, each [D, D].
    matrices: ClassVar = {
        name: Matrix("other", "gnn", part="star") for name in ("gate_node", "gate_star", "attend_node", "attend_star")
    }
    gate_node: nn.Module
    gate_star: nn.Module
    attend_node: nn.Module
    attend_star: nn.Module

    def __init__(self, dim: int, mapped: bool) -> None:
        super().__init__()
        self.mapped, self.root = mapped, dim**0.5
        for name in self.matrices:
            self.add_module(name, nn.Linear(dim, dim, bias=False) if mapped else nn.Identity())

    def forward(self, h: Tensor, star: Tensor, nodes: Nodes) -> tuple[Tensor, Tensor]:
        """(node states [N, D], stars [B, D]) after the step, from those before it."""
        gate = (self.gate_node(h) * nodes.spread(self.gate_star(star))).sum(1, keepdim=True) / self.root  # [N, 1]
        gate = gate if self.mapped else torch.sigmoid(gate)
        h = (1 - gate) * h + gate * nodes.spread(star)
        logits = (self.attend_node(h) * nodes.spread(self.attend_star(star))).sum(1, keepdim=True)  # [N, 1]
        return h, nodes.sum(nodes.softmax(logits / self.root if self.mapped else logits) * h)
