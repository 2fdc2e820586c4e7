"""NISER+: SR-GNN with items and sessions of unit length, dropout and positions (Gupta et al., GRLA 2019).

Items seen often get longer embeddings, and so higher scores; with unit lengths the scores are cosines. The authors
released no code: where the paper is silent, this is what RecBole-GNN's NISER computes.

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
from models.limits import require_rates, require_readout, require_scale, require_whole
from models.mixer import MIXED_SEARCH, READOUT_OPTIONS, atten_mixer_readout
from models.normalise import unit
from models.readout import AttentionReadout
from models.search import DROPOUT, SCALE


class NISER(SessionModel):
    """One gated propagation over the session graph, positions, and attention with the last click as the query.

    A session is its last `length` clicks. The model cuts longer sessions itself, so graph, positions and attention see
    no more. Positions count forward from the first click that is left.

    n_items    V
    dim        D
    scale      sigma, the factor of the cosines
    dropout    probability at the item states of the nodes, before they get unit length
    positions  False adds no position to the clicks: NISER, without the +, has neither positions nor dropout
    length     clicks of a session that count, and positions that are learned
    readout    "attention", NISER's own; "attenmixer": multi-level attention
    without    parts left out of the model: "propagation" (messages are zero), "gnn" (states are the embeddings),
               "positions", "attention" (the mean of the clicks)
    switches   the other arguments of Atten-Mixer's readout: levels, heads, p, ...
    """

    readout: Any
    removable = ("propagation", "gnn", "positions", "attention")
    more_options = READOUT_OPTIONS
    in_name = ("readout",)
    search: ClassVar = {"scale": SCALE, "dropout": DROPOUT, **MIXED_SEARCH}
    unit_candidates = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 100, "scale": 16.0, "dropout": 0.1, "length": 10},  # NISER+, trained as SR-GNN is
        "niser": {"dim": 100, "scale": 16.0, "dropout": 0.0, "length": 10, "positions": False},
        "attenmixer": {"readout": "attenmixer"},  # NISER's scale stays
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        scale: float = 16.0,
        dropout: float = 0.1,
        positions: bool = True,
        length: int = 10,
        readout: str = "attention",
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, length=length)
        require_rates(dropout=dropout)
        require_scale(scale=scale)
        require_readout(readout, "attention", switches)
        self.dropout, self.length = dropout, length
        self.scale = scale if readout == "attention" else None  # Atten-Mixer's readout has its own
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        # [length, D], a bias for each position: it maps nothing, so it is no weight matrix to dissect.
        has_positions = positions and "positions" not in without
        self.position_bias = nn.Parameter(torch.empty(length, dim)) if has_positions else None
        self.gnn = None if "gnn" in without else GatedPropagation(dim, listens="propagation" not in without)
        attend = "attention" not in without
        mixer = atten_mixer_readout(dim, scale=scale, attend=attend, **switches) if readout == "attenmixer" else None
        self.readout = mixer or AttentionReadout(dim, attend)
        self.matrices: Mapping[str, Matrix] = {  # type: ignore[misc]  # another readout, other matrices
            **inside("gnn", GatedPropagation.matrices),
            **inside("readout", self.readout.matrices),
        }
        init_uniform(self, dim)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        batch = batch.latest(self.length)
        h = unit(dropout(lookup(S, batch.nodes.items), self.dropout, self.training))  # [N, D]
        if self.gnn is not None and self.switched_off != "gnn":
            h = self.gnn(h, batch.edges, listens=self.switched_off != "propagation")
        u = batch.nodes.to_clicks(h)  # [C, D]
        if self.position_bias is not None and self.switched_off != "positions":
            u = u + self.position_bias.index_select(0, batch.clicks.position)
        s = self.readout(u, batch.clicks, uniform=self.switched_off == "attention")  # [B, D]
        return s if self.scale is None else self.scale * unit(s)

    def warnings(self, longest: int) -> list[str]:
        return list(self.readout.warnings(min(longest, self.length)))
