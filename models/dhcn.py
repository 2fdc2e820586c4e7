"""DHCN and S^2-DHCN: dual channel hypergraph convolutional networks (Xia et al., AAAI 2021).

Items are averaged over a hypergraph of the training prefixes, a session is an attention over them. S^2-DHCN adds
a second view, the line graph of the sessions of a batch, which enters nothing but a loss.

Letters as in models/base.py: B sessions, C clicks, D width, V items.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, lookup
from models.batch import Batch
from models.hypergraph import Hypergraph
from models.limits import require, require_whole
from models.line_graph import contrast, line_graph
from models.readout import additive
from models.rows import Clicks
from models.search import Float, Int

RECIPE = {"lr": 1e-3, "l2": 0.0, "optimiser": "adam", "schedule": "constant", "batch_size": 100}
MOST_LAYERS = 20  # long before, all items of a component are nearly the same


class DHCN(SessionModel):
    """Item states from a hypergraph of all training prefixes; attention without softmax, the mean as the query.

    Where paper and released code differ this is the code: the layers are averaged; the line channel has no gradient.

    n_items        V
    dim            D
    layers         L, how often the items are propagated, and the sessions in the line graph
    ssl            beta, the weight of the self-supervised loss of S^2-DHCN; 0 leaves it out: DHCN. Released is a sum
                   over batches of 100; here it is 100 times the mean, the same for batches of any size
    positions      False: no positions and no layer that reads them, as released for Tmall
    length         positions that are learned, counted from the last click; clicks before them share the last one
    line_gradient  the self-supervised loss reaches the items through the line channel too
    least          entries of the hypergraph's matrix below this are left out (released for Nowplaying: 0.05)
    without        parts left out of the model: "hypergraph" (states are the embeddings), "attention" (the mean of the
                   clicks), "positions"
    """

    matrices: ClassVar[dict[str, Matrix]] = {
        "attend_click": Matrix("attention", "readout", cols=("position", "item"), part="positions"),  # [D, 2D]
        "attend_all": Matrix("attention", "readout"),  # [D, D]
        "attend_mean": Matrix("attention", "readout"),  # [D, D]
        "attend_score": Matrix("attention", "readout"),  # [1, D]
    }
    removable = ("hypergraph", "attention", "positions")
    remakes_table = False  # propagation draws no numbers, and `encode` reads nothing but its result
    search: ClassVar = {"layers": Int(1, 4), "ssl": Float(1e-3, 0.05, log=True)}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"dim": 100, "layers": 3, "ssl": 0.01},  # S^2-DHCN, as released for Diginetica
        "tmall": {"dim": 100, "layers": 3, "ssl": 0.02, "positions": False},  # S^2-DHCN, as released for Tmall
        "dhcn": {"dim": 100, "layers": 3, "ssl": 0.0},  # without self-supervision
        "paper": {"dim": 256, "layers": 3, "ssl": 0.01},  # Atten-Mixer paper, section 5.1, with batches of 100
    }
    recipes: ClassVar = dict.fromkeys(presets, RECIPE)

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        layers: int = 3,
        ssl: float = 0.01,
        positions: bool = True,
        length: int = 200,
        line_gradient: bool = False,
        least: float = 0.0,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, length=length)
        require_whole(0, MOST_LAYERS, layers=layers)  # 0: no hypergraph
        require("at least 0 and finite", lambda x: 0 <= x < torch.inf, ssl=ssl)
        require("from 0 to 1", lambda x: 0 <= x <= 1, least=least)
        self.layers, self.ssl, self.length, self.line_gradient = layers, ssl, length, line_gradient
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.hypergraph: Any = Hypergraph(layers, least) if layers and "hypergraph" not in without else None
        attend = "attention" not in without
        positions = positions and attend and "positions" not in without
        # [length, D], read beside the clicks: a table, so it is no weight matrix to dissect.
        self.position_bias: Any = nn.Parameter(torch.empty(length, dim)) if positions else None
        self.attend_click: Any = nn.Linear(2 * dim, dim) if positions else None
        self.attend_all: Any = nn.Linear(dim, dim) if attend else None
        self.attend_mean: Any = nn.Linear(dim, dim, bias=False) if attend else None
        self.attend_score: Any = nn.Linear(dim, 1, bias=False) if attend else None
        if attend and not positions:
            self.matrices = {name: of for name, of in self.matrices.items() if name != "attend_click"}  # type: ignore[misc]
        init_uniform(self, dim)

    def prepare(self, sessions: Any) -> None:
        """Make the hypergraph of the training sessions."""
        if self.hypergraph is not None:
            self.hypergraph.prepare(sessions, self.items)

    def item_states(self) -> Tensor:
        is_on = self.hypergraph is not None and self.switched_off != "hypergraph"
        return self.hypergraph(self.items) if is_on else self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        s = self.attended(lookup(S, batch.clicks.items), batch.clicks)  # [B, D]
        if not (self.ssl and self.training):
            return s
        return s, {"ssl": 100 * self.ssl * contrast(s, self.line_channel(batch.clicks)).mean()}

    def attended(self, x: Tensor, clicks: Clicks) -> Tensor:
        """[C, D] -> [B, D]."""
        mean = clicks.mean(x)
        if self.attend_score is None:
            return mean
        c, off = x, self.switched_off
        if self.position_bias is not None:
            place = self.position_bias.index_select(0, clicks.from_end.clamp(max=self.length - 1))  # [C, D]
            c = self.attend_click(torch.cat([torch.zeros_like(place) if off == "positions" else place, x], 1))
        query, keys = self.attend_mean(mean), self.attend_all(torch.tanh(c))
        return additive(self.attend_score, query, keys, x, clicks, uniform=off == "attention")

    def line_channel(self, clicks: Clicks) -> Tensor:
        """The means of the embeddings, averaged L times over sessions that share items; the mean of the layers."""
        E = self.items if self.line_gradient else self.items.detach()
        A, q0 = line_graph(clicks, len(E), E.dtype), clicks.mean(lookup(E, clicks.items))
        q = q0
        for _ in range(self.layers):
            q = q0 + A @ q
        return q / (self.layers + 1)
