"""DSAN: dual sparse attention, among the clicks and to them, both with a learned alpha-entmax (Yuan et al., AAAI 2021).

As the authors' notebook computes it, but for two things: its target token, never a target, is no candidate here, and
vectors longer than `max_norm` are cut where they are used and not in the table.

Letters as in models/base.py: B sessions, C clicks, D width of the items; and M = C + B places, the clicks of each
session and its token after them, of W = 2D numbers each.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, inside, lookup
from models.batch import Batch
from models.dropout import dropout
from models.entmax import entmax
from models.limits import require_positive, require_rates, require_scale, require_whole
from models.normalise import cut, unit
from models.places import SparseSelfAttention, with_token
from models.rows import Clicks
from models.search import DROPOUT, SCALE


class DSAN(SessionModel):
    """Self-attention over the clicks and the token, then attention to the clicks with the token's state as the query.

    n_items    V
    dim        D, the width of the items and of the positions
    scale      w_k, the factor of the cosines
    dropout    probability, in self-attention and at the session vector
    max_norm   the length to which item, token and position vectors are cut
    length     clicks of a session that count, its last ones; one more position is learned
    without    parts left out of the model: "encoder" (self-attention: states are the embeddings), "attention" (the mean
               of the clicks), "positions" (places are D wide)
    """

    matrices: ClassVar[dict[str, Matrix]] = {
        **inside("encoder", SparseSelfAttention.matrices),
        "alpha": Matrix("other", "other"),  # [1, W], of both attentions
        "attend_token": Matrix("attention", "readout"),  # [W, W]
        "attend_all": Matrix("attention", "readout"),  # [W, W]
        "attend_score": Matrix("attention", "readout"),  # [1, W]
        "transform": Matrix("transformation", "readout", cols=("global", "token")),  # [D, 2W]
    }
    removable = ("encoder", "attention", "positions")
    unit_candidates = True
    search: ClassVar = {"scale": SCALE, "dropout": DROPOUT}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"dim": 100},
        "paper": {"dim": 256},  # Atten-Mixer paper, section 5.1
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"optimiser": "amsgrad", "lr": 1e-3, "l2": 0.0, "schedule": "constant", "batch_size": 512},
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        scale: float = 20.0,
        dropout: float = 0.5,
        max_norm: float = 1.5,
        length: int = 69,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, length=length)
        require_rates(dropout=dropout)
        require_scale(scale=scale)
        require_positive(max_norm=max_norm)
        self.scale, self.dropout, self.max_norm, self.length = scale, dropout, max_norm, length
        encode, attend, place = (part not in without for part in ("encoder", "attention", "positions"))
        W = 2 * dim if place else dim
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.token = nn.Parameter(torch.empty(dim))
        # [length + 1, D]: it maps nothing, so it is no weight matrix to dissect.
        self.position_bias = nn.Parameter(torch.empty(length + 1, dim)) if place else None
        self.encoder = SparseSelfAttention(W, dropout) if encode else None
        self.alpha: Any = nn.Linear(W, 1) if encode or attend else None
        self.attend_token: Any = nn.Linear(W, W) if attend else None
        self.attend_all: Any = nn.Linear(W, W, bias=False) if attend else None
        self.attend_score: Any = nn.Linear(W, 1, bias=False) if attend else None
        self.transform = nn.Linear(2 * W, dim)
        with torch.no_grad():  # as the authors do; what is not named here begins as PyTorch's layers do
            for name, p in self.named_parameters():
                if name in ("items", "token", "position_bias"):
                    p.copy_(cut(p.normal_(), max_norm))
                elif name in ("attend_token.bias", "encoder.query.bias"):
                    p.zero_()
                elif name.startswith("attend"):
                    p.normal_(0, 0.05)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.latest(self.length).clicks
        c, places, of_click = self.places(S, clicks)  # [M, W]
        if self.encoder is None or self.switched_off == "encoder":
            o = c
        else:
            o = self.encoder(c, places, self.sparsity(c.index_select(0, places.last)))  # [M, W]
        m, o, c = o.index_select(0, places.last), o.index_select(0, of_click), c.index_select(0, of_click)
        if self.attend_score is None or self.switched_off == "attention":
            overall = clicks.mean(c)  # [B, W]
        else:
            score = self.attend_score(torch.relu(self.attend_all(o) + clicks.spread(self.attend_token(m))))  # [C, 1]
            overall = clicks.sum(entmax(score[:, 0], self.sparsity(m), clicks)[:, None] * c)
        vector = torch.selu(self.transform(torch.cat([overall, m], 1)))  # [B, D]
        return self.scale * unit(dropout(vector, self.dropout, self.training))

    def places(self, S: Tensor, clicks: Clicks) -> tuple[Tensor, Clicks, Tensor]:
        """Items beside positions [M, W], the token after each session's clicks; and the place of each click [C]."""
        places, of_click = with_token(clicks)
        c = S.new_empty(len(places), S.shape[1]).index_copy(0, of_click, lookup(S, clicks.items))
        c = cut(c.index_copy(0, places.last, self.token.expand(places.n_owners, -1)), self.max_norm)
        if self.position_bias is None:
            return c, places, of_click
        p = cut(self.position_bias, self.max_norm) * (self.switched_off != "positions")
        return torch.cat([c, p.index_select(0, places.position)], 1), places, of_click

    def sparsity(self, x: Tensor) -> Tensor:
        """alpha of each session, from 1 (softmax) to 2 (sparsemax): [B, W] -> [B]."""
        return 1 + torch.sigmoid(self.alpha(x)[:, 0]).clamp(min=1e-5)
