"""SGNN-HN: a star graph neural network with a highway (Pan et al., CIKM 2020).

Each session has one more node, the star, linked to all of its items. The authors' repository is gone; where the paper
and the code that descends from theirs (RecBole-GNN, the port in SR-PredictAO) differ, both ways are options.

Letters as in models/base.py: B sessions, C clicks, N nodes, D width, V items; T steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, inside, lookup
from models.batch import Batch
from models.gnn import GatedPropagation, StarStep
from models.limits import MOST_LAYERS, require_choice, require_readout, require_scale, require_whole
from models.mixer import MIXED_SEARCH, READOUT_OPTIONS, atten_mixer_readout
from models.normalise import centred_unit, centred_unit_rows
from models.readout import AttentionReadout
from models.search import SCALE, Int


class SGNNHN(SessionModel):
    """T steps of gated propagation and star, a highway past them, positions, and attention; scores are centred cosines.

    n_items, dim  V, D
    steps         T (weights shared); 0 leaves propagation, star gates and highway out, as without "gnn"
    star          "dot": by plain products, as in the descendants; "mapped": through four matrices, as in the paper
    highway       a gate between embeddings and last states: in the paper; in the released code defined and never used
    scale         tau, the factor of the cosines
    length        a session is its last `length` clicks, and positions count forward from the first of these
    readout       "attention", SGNN-HN's own; "attenmixer": multi-level attention on plain cosines, without the star
    without       parts left out of the model: "propagation" (messages are zero), "gnn" (states are the embeddings),
                  "star" (in steps and attention), "highway", "positions", "attention" (the mean of the clicks)
    switches      the other arguments of Atten-Mixer's readout: levels, heads, p, ...
    """

    readout: Any
    removable = ("propagation", "gnn", "star", "highway", "positions", "attention")
    more_options = READOUT_OPTIONS
    in_name = ("readout",)
    search: ClassVar = {"steps": Int(1, 6), "scale": SCALE, **MIXED_SEARCH}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 256},  # Atten-Mixer paper, section 5.1, with batches of 100
        "authors": {"dim": 256, "steps": 6, "star": "mapped"},  # SGNN-HN's own paper
        "released": {"dim": 256, "steps": 6, "highway": False},  # as RecBole-GNN has it from the authors' code
        "pao": {"dim": 256},  # the port in SR-PredictAO, without its forest
        "attenmixer": {"readout": "attenmixer"},  # Table 3
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"batch_size": 100},
        **{name: {"batch_size": 100, "schedule": "steps", "lr": 1e-3, "l2": 1e-5} for name in ("authors", "released")},
        # The port decays its rate after 10 epochs, and `dissect train` makes no more.
        "pao": {
            "lr": 1e-3,
            "l2": 1e-4,
            "schedule": "constant",
            "batch_size": 256,
            "order": "chronological",
            "patience": 2,
        },
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 256,
        steps: int = 1,
        star: str = "dot",
        highway: bool = True,
        scale: float = 12.0,
        length: int = 10,
        readout: str = "attention",
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        require_whole(2, dim=dim)  # one number less its mean is 0
        require_whole(1, n_items=n_items, length=length)
        require_whole(0, MOST_LAYERS, steps=steps)
        require_scale(scale=scale)
        require_choice(("dot", "mapped"), star=star)
        require_readout(readout, "attention", switches)
        self.steps, self.scale, self.length = steps, scale, length
        self.unit_candidates = is_mixer = readout == "attenmixer"
        parts = {*self.removable} - {*without}
        has_graph, has_star, attend = steps > 0 and "gnn" in parts, "star" in parts, "attention" in parts
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.position_bias = nn.Parameter(torch.empty(length, dim)) if "positions" in parts else None  # maps nothing
        self.gnn = GatedPropagation(dim, listens="propagation" in parts) if has_graph else None
        self.star = StarStep(dim, star == "mapped") if has_graph and has_star else None
        self.highway = nn.Linear(2 * dim, dim) if highway and has_graph and "highway" in parts else None
        self.attend_star = nn.Linear(dim, dim) if attend and has_star and not is_mixer else None
        mixer = atten_mixer_readout(dim, scale=scale, attend=attend, **switches) if is_mixer else None
        self.readout = mixer or AttentionReadout(dim, attend)
        self.matrices: Mapping[str, Matrix] = {  # type: ignore[misc]  # other options, other matrices
            **inside("gnn", GatedPropagation.matrices),
            **inside("star", StarStep.matrices if star == "mapped" else {}),
            **({"highway": Matrix("other", "gnn", cols=("embedding", "state"), part="highway")} if highway else {}),
            **({} if is_mixer else {"attend_star": Matrix("attention", "readout", part="star")}),
            **inside("readout", self.readout.matrices),
        }
        init_uniform(self, dim)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        batch, off = batch.latest(self.length), self.switched_off
        h, star = self.states(lookup(S, batch.nodes.items), batch)  # [N, D], [B, D]
        u = batch.nodes.to_clicks(h)  # [C, D]
        if self.position_bias is not None and off != "positions":
            u = u + self.position_bias.index_select(0, batch.clicks.position)
        if self.unit_candidates:
            return self.readout(u, batch.clicks, uniform=off == "attention")
        star = torch.zeros_like(star) if off == "star" else star
        asks = None if self.attend_star is None else self.attend_star(star)
        return self.scale * centred_unit(self.readout(u, batch.clicks, uniform=off == "attention", beside=asks))

    def states(self, h: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(node states [N, D], stars [B, D]) after T steps and the highway, from the embeddings of the nodes."""
        off, embedded, star = self.switched_off, h, batch.nodes.mean(h)
        if self.gnn is None or off == "gnn":
            return h, star
        for _ in range(self.steps):
            h = self.gnn(h, batch.edges, listens=off != "propagation")
            if self.star is not None and off != "star":
                h, star = self.star(h, star, batch.nodes)
        if self.highway is not None and off != "highway":
            h = torch.lerp(h, embedded, torch.sigmoid(self.highway(torch.cat([embedded, h], 1))))
        return h, star

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        return S if self.unit_candidates else centred_unit_rows(S), None

    def warnings(self, longest: int) -> list[str]:
        return list(self.readout.warnings(min(longest, self.length)))
