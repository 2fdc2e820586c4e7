"""CORE: a session is a weighted mean of its items, in the space of the items (Hou et al., SIGIR 2022).

The weights are equal (CORE-ave), or a transformer makes them (CORE-trm); no other map stands between items and session.
Scores are cosines over a temperature, with dropout at the candidates in training.

Letters as in models/base.py: B sessions, C clicks, D width, V items, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, lookup
from models.batch import Batch
from models.dropout import dropout
from models.limits import MOST_LAYERS, require, require_choice, require_heads, require_rates, require_whole
from models.normalise import unit
from models.search import DROPOUT, Float, Int, only_with
from models.transformer import Transformer, matrices_of


class CORE(SessionModel):
    """A weighted mean of the item embeddings of a session, compared with the candidates by their cosine.

    n_items, dim          V, D
    encoder               "trm": a transformer weighs the clicks; "ave": all weigh the same
    layers, heads, inner  of the transformer: how many, H, and the width of the feed-forward nets
    session_dropout       probability at the embeddings of the clicks, each click for itself
    item_dropout          probability at the candidates, before they get unit length
    inner_dropout         probability at the states of the transformer and at its attention
    temperature           what the cosines are divided by
    length                the last clicks of a session that count, and the positions that are learned
    without               "encoder" (all clicks weigh the same), "self-attention" (the layers are feed-forward nets),
                          "positions"
    """

    removable: tuple[str, ...] = ("encoder", "self-attention", "positions")  # type: ignore[misc]
    search: ClassVar = {
        "session_dropout": DROPOUT,
        "item_dropout": DROPOUT,
        "temperature": Float(0.03, 0.2, log=True),
        **only_with({"layers": Int(1, 3), "inner_dropout": DROPOUT}, ("encoder", "trm")),
    }
    older_names: ClassVar = {
        f"encoder.layers.{layer}.{name}": f"encoder.layers.{layer}.attention.{name}"
        for layer in range(16)  # checkpoints with more layers are not known
        for name in ("query", "key", "value", "out")
    }
    unit_candidates = "returned"  # dropout comes before the unit length
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "ave": {"dim": 100, "encoder": "ave"},  # the authors' settings
        "trm": {"dim": 100},
        "paper-ave": {"dim": 256, "encoder": "ave"},  # width and batches of the Atten-Mixer paper, which has no CORE
        "paper-trm": {"dim": 256},
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "ave": {"lr": 1e-3, "l2": 0.0, "batch_size": 2048, "schedule": "constant"},
        "trm": {"lr": 1e-3, "l2": 0.0, "batch_size": 2048, "schedule": "constant"},
        "paper-ave": {"batch_size": 100},
        "paper-trm": {"batch_size": 100},
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        encoder: str = "trm",
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        session_dropout: float = 0.2,
        item_dropout: float = 0.2,
        inner_dropout: float = 0.5,
        temperature: float = 0.07,
        length: int = 50,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_whole(1, MOST_LAYERS, layers=layers)
        require_whole(1, n_items=n_items, dim=dim, heads=heads, inner=inner, length=length)
        require_rates(session_dropout=session_dropout, item_dropout=item_dropout, inner_dropout=inner_dropout)
        require("at least 0.001 and finite", lambda x: 0.001 <= x < torch.inf, temperature=temperature)
        require_choice(("trm", "ave"), encoder=encoder)
        if encoder == "trm":
            require_heads(heads, dim)
        self.session_dropout, self.item_dropout = session_dropout, item_dropout
        self.temperature, self.length = temperature, length
        self.items = nn.Parameter(torch.empty(n_items, dim).uniform_(-(dim**-0.5), dim**-0.5))  # [V, D]
        self.encoder = None
        if encoder == "ave":
            self.removable = ()
        elif "encoder" not in without:
            self.encoder = Transformer(dim, length, layers, heads, inner, inner_dropout, without)
        self.matrices: Mapping[str, Matrix] = matrices_of(layers, heads) if encoder == "trm" else {}  # type: ignore[misc]

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        batch = batch.latest(self.length)
        clicks = batch.clicks
        x = dropout(lookup(S, clicks.items), self.session_dropout, self.training)  # [C, D]
        if self.encoder is None or self.switched_off == "encoder":
            s = clicks.mean(x)
        else:
            s = clicks.sum(clicks.softmax(self.encoder(x, clicks, self.switched_off)) * x)  # [B, D]
        return unit(s) / self.temperature

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        return dropout(S, self.item_dropout, self.training), None
