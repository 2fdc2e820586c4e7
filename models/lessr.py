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
from models.lessr_layers import EOPA, SGAT, Readout
from models.limits import require_rates, require_whole
from models.normalise import cut_factor
from models.search import DROPOUT, Int

RECIPE = {"optimiser": "adamw", "lr": 1e-3, "l2": 1e-4, "schedule": "constant", "batch_size": 512, "patience": 2}
MOST_LAYERS = 16  # each makes the states D wider, and a GRU has six times the square of that


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
            # What the cut left is cut no further, although it may be longer than 1 by rounding.
            factor = cut_factor(self.items, 1.0, tolerance=1e-6)
            if self.training:  # the parameter itself, so gradients are those of the rows that were cut
                self.items.mul_(factor)
        return self.items if self.training else self.items * factor

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
