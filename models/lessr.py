"""LESSR: lossless edge-order preserving aggregation and shortcut graph attention (Chen and Wong, KDD 2020).

Written from the equations and from the behaviour of the authors' code: each transition is an edge, in the order of
occurrence; the query of the attention along a shortcut comes from its source; the readout is over nodes, not clicks.

Letters as in models/base.py: B sessions, N nodes, D width, V items; k is the width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, inside, lookup
from models.batch import Batch
from models.dropout import dropout
from models.lessr_layers import EOPA, SGAT
from models.limits import require_rates, require_whole
from models.readout import additive
from models.rows import Nodes
from models.search import DROPOUT, Int

RECIPE = {"optimiser": "adamw", "lr": 1e-3, "l2": 1e-4, "schedule": "constant", "batch_size": 512, "patience": 2}
MOST_LAYERS = 16  # each makes the states D wider, and a GRU has six times the square of that


class Readout(nn.Module):
    """Attention over the nodes with the last one as the query, beside the state of the last one."""

    def __init__(self, blocks: tuple[str, ...], dim: int, p: float, attend: bool = True) -> None:
        super().__init__()
        k, self.p = len(blocks) * dim, p
        self.norm, self.act, self.last_norm = nn.BatchNorm1d(k), nn.PReLU(dim), nn.BatchNorm1d(k + dim)
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


class LESSR(SessionModel):
    """EOPA and SGAT layers in turn; each one's input is the outputs of all before it beside the items.

    Rows of the item table are at most 1 long: longer ones are cut before every use.

    n_items  V
    dim      D
    layers   L: the first, third, ... are EOPA, the others SGAT
    dropout  probability at the inputs of the layers, after batch norm, but not at what an EOPA node keeps of itself
    without  parts left out of the model: "propagation" (messages are zero), "gnn" (states are the embeddings),
             "shortcut" (no SGAT), "order" (in EOPA the mean of what a GRU makes of each transition alone),
             "attention" (the mean of the nodes)
    """

    removable = ("propagation", "gnn", "shortcut", "order", "attention")
    search: ClassVar = {"layers": Int(1, 4), "dropout": DROPOUT}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"dim": 32, "layers": 4},  # the authors' for Diginetica; their script makes 3 layers unless told
        "authors-gowalla": {"dim": 64, "layers": 4},
        "authors-lastfm": {"dim": 128, "layers": 4},
        "paper": {"dim": 256, "layers": 4},  # Atten-Mixer paper, section 5.1
    }
    recipes: ClassVar = dict.fromkeys(("authors", "authors-gowalla", "authors-lastfm"), RECIPE)

    def __init__(
        self, n_items: int, dim: int = 32, layers: int = 4, dropout: float = 0.2, without: Collection[str] = ()
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim)
        require_whole(1, MOST_LAYERS, layers=layers)
        require_rates(dropout=dropout)
        self.items = nn.Parameter(torch.randn(n_items, dim))  # [V, D]
        hears = "propagation" not in without
        blocks: tuple[str, ...] = ("items",)
        self.layers = nn.ModuleDict()
        for i in range(0 if "gnn" in without else layers):
            if i % 2 == 0:
                self.layers[f"{i}"] = EOPA(blocks, dim, dropout, hears, "order" not in without)
            elif hears and "shortcut" not in without:
                self.layers[f"{i}"] = SGAT(blocks, dim, dropout)
            else:
                continue
            blocks = (f"layer{i}", *blocks)
        self.readout = Readout(blocks, dim, dropout, "attention" not in without)
        parts: list[tuple[str, Any]] = [*((f"layers.{i}", layer) for i, layer in self.layers.items())]
        parts.append(("readout", self.readout))
        self.matrices: dict[str, Matrix] = {  # type: ignore[misc]  # as many as there are layers
            name: matrix for at, part in parts for name, matrix in inside(at, part.matrices).items()
        }

    def item_states(self) -> Tensor:
        with torch.no_grad():
            length = torch.linalg.vector_norm(self.items, dim=1, keepdim=True)
            # What the cut left is cut no further, although it may be longer than 1 by rounding.
            cut = torch.where(length > 1 + 1e-6, 1 / (length + 1e-7), 1.0)
            if self.training:  # the parameter itself, so gradients are those of the rows that were cut
                self.items.mul_(cut)
        return self.items if self.training else self.items * cut

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        nodes, off = batch.nodes, self.switched_off
        x = lookup(S, nodes.items)  # [N, D]
        for layer in self.layers.values():
            if off == "gnn" or (isinstance(layer, SGAT) and off in ("propagation", "shortcut")):
                out = x.new_zeros(len(x), S.shape[1])
            elif isinstance(layer, SGAT):
                out = layer(x, batch.shortcuts)
            else:
                out = layer(x, batch.transitions, off)
            x = torch.cat([out, x], 1)  # [N, (i + 2) D] after layer i, from 0
        last = nodes.of_click.index_select(0, batch.clicks.last)  # [B]
        return self.readout(x, nodes, last, uniform=off == "attention")
