"""SR-GNN: session-based recommendation with a gated graph neural network (Wu et al., AAAI 2019).

Written from the equations and from the behaviour of the authors' PyTorch code; where they differ, it follows the code:
binary edges, the gate order of nn.GRUCell, an attention without softmax, scores against the item table and not against
the propagated states.

Letters as in models/base.py: B sessions, C clicks, N nodes, D width, V items.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, inside, lookup
from models.batch import Batch
from models.dropout import dropout
from models.gnn import GatedPropagation
from models.limits import MOST_LAYERS, require_choice, require_rates, require_readout, require_scale, require_whole
from models.mixer import MIXED, MIXED_SEARCH, READOUT_OPTIONS, atten_mixer_readout
from models.normalise import unit
from models.readout import AttentionReadout
from models.search import SCALE, Choice, Int, only_with


class SRGNN(SessionModel):
    """A gated GNN over the session graph, then attention.

    n_items      V
    dim          D
    steps        how often the states are propagated (weights shared); 0 leaves the graph out
    propagation  "(AH)W" averages the neighbours and then maps them; "A(HW)" maps first, as the authors wrote
    normalised   items, session vectors and candidates have unit length, and the scores are multiplied by `scale`
    scale        sigma; only if normalised
    dropout      probability at the states of the nodes, before they are normalised; None: 0.1 if normalised, else 0
    readout      "attention", SR-GNN's own; "attenmixer": multi-level attention, which needs normalised states
    without      roles left out of the model: "propagation" (messages are zero), "gnn" (states are the
                 embeddings), "attention" (the mean of the clicks)
    switches     the other arguments of Atten-Mixer's readout: levels, heads, p, ...
    """

    readout: Any
    matrices: ClassVar = {
        **inside("gnn", GatedPropagation.matrices),
        **inside("readout", AttentionReadout.matrices),
    }
    removable = ("propagation", "gnn", "attention")
    more_options = READOUT_OPTIONS
    in_name = ("readout",)
    search: ClassVar = {  # whether it is normalised is not searched: that makes another model
        "steps": Int(1, 3),
        "dropout": Choice((None, 0.1, 0.2, 0.3, 0.5)),
        **only_with({"scale": SCALE}, ("normalised", True), MIXED),
        **MIXED_SEARCH,
    }
    older_names: ClassVar = {
        **{name: f"gnn.{name}" for name in ("edge_in", "edge_out", "bias_along", "bias_node")},
        **{name: f"gnn.{name}" for name in ("gate_ih", "gate_hh", "gate_bias")},
        **{name: f"readout.{name}" for name in ("attend_last", "attend_all", "attend_score", "transform")},
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 256},  # Atten-Mixer paper, section 5.1
        "authors": {"dim": 100},  # SR-GNN's own setting, with batches of 100
        "normalised": {"normalised": True},  # Atten-Mixer's normalisation without its readout
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
        require_whole(1, n_items=n_items, dim=dim)
        require_whole(0, MOST_LAYERS, steps=steps)
        require_choice(("(AH)W", "A(HW)"), propagation=propagation)
        require_scale(scale=scale)
        require_readout(readout, "attention", switches)
        self.normalised = self.unit_candidates = normalised or readout == "attenmixer"
        if scale != 12.0 and not self.normalised:
            raise ValueError(f"scale={scale}: only with normalised or readout='attenmixer'")
        self.scale = scale if normalised and readout == "attention" else None  # Atten-Mixer's readout has its own
        self.dropout = dropout if dropout is not None else 0.1 if self.normalised else 0.0
        require_rates(dropout=self.dropout)
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        listens, attend = "propagation" not in without, "attention" not in without
        has_graph = steps > 0 and "gnn" not in without
        self.gnn = GatedPropagation(dim, steps, propagation == "A(HW)", listens) if has_graph else None
        if readout == "attenmixer":
            self.readout = atten_mixer_readout(dim, scale=scale, attend=attend, **switches)
            self.matrices: Mapping[str, Matrix] = {  # type: ignore[misc]  # another readout, other matrices
                **inside("gnn", GatedPropagation.matrices),
                **inside("readout", self.readout.matrices),
            }
        else:
            self.readout = AttentionReadout(dim, attend)
        init_uniform(self, dim)

    def warnings(self, longest: int) -> list[str]:
        return list(self.readout.warnings(longest))

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        h = dropout(lookup(S, batch.nodes.items), self.dropout, self.training)  # [N, D]
        if self.normalised:
            h = unit(h)
        if self.gnn is not None and self.switched_off != "gnn":
            h = self.gnn(h, batch.edges, listens=self.switched_off != "propagation")  # Equations 1 to 5
        h = batch.nodes.to_clicks(h)  # [C, D]
        s = self.readout(h, batch.clicks, uniform=self.switched_off == "attention")  # [B, D], Equations 6 and 7
        return s if self.scale is None else self.scale * unit(s)
