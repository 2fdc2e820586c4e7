"""SR-GNN: session-based recommendation with a gated graph neural network (Wu et al., AAAI 2019).

Written from the equations and from the behaviour of the authors' PyTorch code, where the two differ the
code counts: binary edges, the gate order of nn.GRUCell, an attention without softmax, scores against the
item table and not against the propagated states.

Letters as in models/base.py: B sessions, C packed clicks, N nodes, D width, V items.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, lookup
from models.dropout import dropout
from models.graph import Clicks, SessionGraph, build, mean_of_neighbours, pack, sum_by_session
from models.normalise import unit
from models.readout import READOUT_OPTIONS, AttenMixerReadout

GATES = ("r", "z", "n")


class SRGNN(SessionModel):
    """One gated propagation over the session graph, then attention with the last click as the query.

    n_items      V
    dim          D
    steps        how often the states are propagated (weights shared); 0 leaves the graph out
    propagation  "(AH)W" averages the neighbours and then maps them; "A(HW)" maps first, as the authors wrote.
                 Without noise on W the two are equal; with it only the first has the right variance per node.
    normalised   items, session vectors and candidates have unit length, and the scores are multiplied by `scale`
    scale        sigma; of normalised states only
    dropout      probability at the item states of the nodes, before they get their length 1 back; None: 0.1
                 where they are normalised, else 0
    readout      "attention", SR-GNN's own; "attenmixer": multi-level attention, which wants normalised states
    without      roles left out of the model: "propagation" (messages are zero), "gnn" (states are the
                 embeddings), "attention" (the mean of the clicks)
    switches     the other arguments of AttenMixerReadout: levels, heads, p, ...
    """

    matrices: ClassVar = {
        "edge_in": Matrix("propagation", "gnn"),  # [D, D]
        "edge_out": Matrix("propagation", "gnn"),  # [D, D]
        "gate_ih": Matrix("update", "gnn", rows=GATES, cols=("in", "out")),  # [3D, 2D]
        "gate_hh": Matrix("update", "gnn", rows=GATES),  # [3D, D]
        "attend_last": Matrix("attention", "readout"),  # [D, D]
        "attend_all": Matrix("attention", "readout"),  # [D, D]
        "attend_score": Matrix("attention", "readout"),  # [1, D]
        "transform": Matrix("transformation", "readout", cols=("global", "last")),  # [D, 2D]
    }
    removable = ("propagation", "gnn", "attention")
    more_options = READOUT_OPTIONS
    in_name = ("readout",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 256},  # Atten-Mixer paper, section 5.1, with batches of 100
        "authors": {"dim": 100},  # SR-GNN's own setting, with batches of 100
        "normalised": {"normalised": True},  # what separates SR-GNN from Atten-Mixer's scores, without its readout
        "attenmixer": {"readout": "attenmixer"},  # Table 3
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 256,
        steps: int = 1,
        propagation: str = "(AH)W",
        normalised: bool = False,
        scale: float = 12.0,
        dropout: float | None = None,
        readout: str = "attention",
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"steps is 0 (no graph) or more, not {steps}")
        if propagation not in ("(AH)W", "A(HW)"):
            raise ValueError(f"propagation is '(AH)W' or 'A(HW)', not {propagation!r}")
        if readout not in ("attention", "attenmixer"):
            raise ValueError(f"readout is 'attention' or 'attenmixer', not {readout!r}")
        if dropout is not None and not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability from 0 to below 1, not {dropout}")
        if switches and readout != "attenmixer":
            raise ValueError(f"{', '.join(switches)}: only with readout='attenmixer'")
        self.normalised, self.scale = normalised or readout == "attenmixer", scale
        self.unit_candidates = self.normalised
        self.dropout = dropout if dropout is not None else 0.1 if self.normalised else 0.0
        self.map_first = propagation == "A(HW)"
        self.steps = 0 if "gnn" in without else steps
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        if self.steps:
            self.gate_hh = nn.Linear(dim, 3 * dim)
            if "propagation" in without:
                self.gate_bias = nn.Parameter(torch.empty(3 * dim))  # what is left of gate_ih(0)
            else:
                self.edge_in = nn.Linear(dim, dim, bias=False)
                self.edge_out = nn.Linear(dim, dim, bias=False)
                # Each direction has a bias that travels along edges and one that every node gets.
                self.bias_along = nn.Parameter(torch.empty(2, dim))
                self.bias_node = nn.Parameter(torch.empty(2, dim))
                self.gate_ih = nn.Linear(2 * dim, 3 * dim)
        attend = "attention" not in without
        if readout == "attenmixer":
            self.readout = AttenMixerReadout(dim, scale=scale, attend=attend, **switches)
            self.matrices: Mapping[str, Matrix] = {  # type: ignore[misc]  # another readout, other matrices
                **{name: matrix for name, matrix in type(self).matrices.items() if matrix.module == "gnn"},
                **{f"readout.{name}": matrix for name, matrix in self.readout.matrices.items()},
            }
        else:
            if attend:
                self.attend_last = nn.Linear(dim, dim)
                self.attend_all = nn.Linear(dim, dim)
                self.attend_score = nn.Linear(dim, 1, bias=False)
            self.transform = nn.Linear(2 * dim, dim)
        init_uniform(self, dim)

    def warnings(self, longest: int) -> list[str]:
        return self.readout.warnings(longest) if hasattr(self, "readout") else []

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, items: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        clicks = pack(items, lengths, self.all_slots)
        graph = build(clicks)
        states = dropout(lookup(S, graph.nodes), self.dropout, self.training)  # [N, D]
        if self.normalised:
            states = unit(states)
        if self.switched_off != "gnn":
            for _ in range(self.steps):
                states = self.update(self.messages(states, graph), states)
        states = states.index_select(0, graph.click_node)  # [C, D]
        if hasattr(self, "readout"):
            return self.readout(states, lengths, width=clicks.width, uniform=self.switched_off == "attention"), {}
        vectors = self.read_out(states, clicks)  # [B, D]
        return self.scale * unit(vectors) if self.normalised else vectors, {}

    def messages(self, states: Tensor, graph: SessionGraph) -> Tensor | None:
        """g [N, 2D]: what each node hears from its predecessors and from its successors; None is all zero."""
        if self.switched_off == "propagation" or not hasattr(self, "edge_in"):
            return None
        halves = []
        for edge, reads, writes, degree, along, node in (
            (
                self.edge_in,
                graph.source,
                graph.target,
                graph.in_degree,
                self.bias_along[0],
                self.bias_node[0],
            ),
            (
                self.edge_out,
                graph.target,
                graph.source,
                graph.out_degree,
                self.bias_along[1],
                self.bias_node[1],
            ),
        ):
            if self.map_first:
                heard = mean_of_neighbours(edge(states), reads, writes, degree, graph.real)  # A (H W)
            else:
                heard = edge(mean_of_neighbours(states, reads, writes, degree, graph.real))  # (A H) W
            # The mean over neighbours of a constant is that constant, or zero where there are none.
            halves.append(heard + (degree > 0)[:, None] * along + node)
        return torch.cat(halves, 1)

    def update(self, messages: Tensor | None, states: Tensor) -> Tensor:
        """The states [N, D] after one gated step, nn.GRUCell with the messages as input."""
        if messages is None:
            gi = self.gate_ih.bias if hasattr(self, "gate_ih") else self.gate_bias  # [3D]
        else:
            gi = self.gate_ih(messages)  # [N, 3D]
        i_r, i_z, i_n = gi.chunk(3, -1)
        h_r, h_z, h_n = self.gate_hh(states).chunk(3, -1)  # [N, D] each
        reset, keep = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
        new = torch.tanh(i_n + reset * h_n)
        return new + keep * (states - new)

    def read_out(self, states: Tensor, clicks: Clicks) -> Tensor:
        """Session vectors [B, D] from click states [C, D]: attention over all clicks beside the last one."""
        last, n = states.index_select(0, clicks.last), clicks.lengths[:, None]  # [B, D], [B, 1]
        if hasattr(self, "attend_last"):
            query = self.attend_last(last).index_select(0, clicks.session)  # [C, D]
            weight = self.attend_score(torch.sigmoid(query + self.attend_all(states)))  # [C, 1], no softmax
            if self.switched_off == "attention":
                weight = (sum_by_session(weight, clicks) / n).index_select(0, clicks.session)
        else:
            weight = (1 / n.to(states.dtype)).index_select(0, clicks.session)
        overall = sum_by_session(weight * states, clicks)  # [B, D]
        return self.transform(torch.cat([overall, last], 1))
