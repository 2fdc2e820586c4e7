"""Atten-Mixer: multi-level attention as the readout, without a GNN (Zhang et al., WSDM 2023).

`paper` follows Equations 4 to 8 and Algorithm 1; `official` computes what the released code computes; `fixed` is the
released code with real heads and an attention that can tell clicks apart.

Letters as in models/base.py: B sessions, C clicks, N nodes, D width, V items, H heads; and K levels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, inside, lookup
from models.batch import Batch
from models.dropout import dropout
from models.limits import require_rates, require_whole
from models.mixer import READOUT_OPTIONS, READOUT_SEARCH, atten_mixer_readout
from models.search import DROPOUT, SCALE

# What `official` and `fixed` share.
RELEASED: dict[str, Any] = {
    "dim": 256,
    "levels": 7,
    "heads": 8,
    "p": 4.0,
    "scale": 16.0,
    "query": "concat",
    "query_norm": "levels",
    "attention_scale": 1.0,
    "value": True,
    "readout_norm": "layer",
    "score_norm": True,
    "bias": True,
    "attention_dropout": 0.1,
    "candidate_dropout": 0.1,
}


class AttenMixer(SessionModel):
    """Multi-level attention over the clicks, without a GNN.

    Item embeddings of unit length, dropout, and the multi-level readout; candidates have unit length too.

    n_items            V
    dim                D
    levels, heads, p   K, H and the exponent of the pooling
    scale              sigma
    dropout            probability at the states of the items of a session, before they are normalised
    candidate_dropout  probability at the catalogue of unit rows, one mask a step (the released code)
    without            roles left out of the model: "attention" (the mean of the clicks)
    switches           the other arguments of AttenMixerReadout (models/mixer.py) and of ReleasedReadout
                       (models/released.py)
    """

    readout: Any
    removable: ClassVar[tuple[str, ...]] = ("attention",)
    more_options = READOUT_OPTIONS
    unit_candidates = True
    search: ClassVar = {**READOUT_SEARCH, "scale": SCALE, "dropout": DROPOUT}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 256, "levels": 7, "heads": 8, "p": 4.0, "scale": 12.0},
        "official": {
            **RELEASED,
            "head_layout": "raw_view",
            "attention": "sigmoid",
            "padded_length": 20,  # longest prefix + 1 of the paper's data sets
        },
        "fixed": {**RELEASED, "head_layout": "split", "attention": "softmax"},
        # Table 4 of the paper, whose code is not released; -IP is described in a few words only.
        "paper-M": {"levels": 1},
        "paper-IP": {"windows": "all"},
        "paper-LI": {"query": "concat"},
        "paper-LP": {"p": math.inf},
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 256,
        levels: int = 7,
        heads: int = 8,
        p: float = 4.0,
        scale: float = 12.0,
        dropout: float = 0.1,
        candidate_dropout: float = 0.0,
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim)
        require_rates(dropout=dropout, candidate_dropout=candidate_dropout)
        self.dropout, self.candidate_dropout = dropout, candidate_dropout
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        attend = "attention" not in without
        options: dict[str, Any] = {"levels": levels, "heads": heads, "p": p, "scale": scale, "attend": attend}
        self.readout = atten_mixer_readout(dim, **options, **switches)
        self.matrices: Mapping[str, Matrix] = inside("readout", self.readout.matrices)  # type: ignore[misc]
        init_uniform(self, dim)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        # Clicks on one item of a session lose the same numbers.
        h = dropout(lookup(S, batch.nodes.items), self.dropout, self.training)  # [N, D]
        return self.readout(batch.nodes.to_clicks(h), batch.clicks, uniform=self.switched_off == "attention")  # [B, D]

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        return dropout(S, self.candidate_dropout, self.training), None

    def warnings(self, longest: int) -> list[str]:
        return self.readout.warnings(longest)
