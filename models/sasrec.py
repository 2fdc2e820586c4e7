"""SASRec: self-attentive sequential recommendation, the field's transformer (Kang and McAuley, ICDM 2018).

Written from the equations and from the behaviour of the authors' TensorFlow code; `port` is the PyTorch port that most
compare with (pmixer/SASRec.pytorch). Both train with one drawn negative a click and a binary cross-entropy; the house
takes the cross-entropy over the catalogue for every model, as recent reproductions of SASRec do.

Letters as in models/base.py: B sessions, L clicks of the longest, C clicks, D width, V items, H heads.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import SessionModel, inside, lookup
from models.batch import Batch
from models.blocks import NormedBlock
from models.dropout import dropout
from models.limits import MOST_LAYERS, require_choice, require_rates, require_whole
from models.search import DROPOUT, Choice, Int


class SASRec(SessionModel):
    """Items and positions, blocks of causal self-attention and feed-forward, and a vector after every click.

    A click sees itself and at most `length` - 1 clicks before it. Positions count forward from the first click that it
    sees. In the references they count back from the last click of the sequence, padded on the left: in training they
    depend on clicks to come. The port also attends to the padding. On sequences without padding all agree.

    n_items, dim, heads  V, D, H; the references have one head. Each of the `blocks` has weights of its own
    length   clicks that are seen, and positions that are learned
    norm     "query": of the query of self-attention, which is also what its result is added to (authors; port before
             2025). "pre": x + f(norm(x)). "post": norm(x + f(x)) (the port's default now)
    output   self-attention has an output matrix, as in the port; paper and authors have none
    dropout  probability at the sum of item and position, at attention weights, and in and after the feed-forward
    without  parts left out: "attention" (a click gets the mean of what it sees), "self-attention" (it gets nothing),
             "transformation" (the feed-forward), "positions"
    """

    every_position = True
    removable = ("attention", "self-attention", "transformation", "positions")
    search: ClassVar = {"blocks": Int(1, 3), "heads": Choice((1, 2, 4)), "dropout": DROPOUT}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"dim": 50, "heads": 1, "length": 50, "dropout": 0.5},  # of kang205/SASRec, with batches of 128
        "port": {"dim": 50, "heads": 1, "length": 200, "norm": "post", "output": True, "dropout": 0.2},
    }
    _recipe: ClassVar = {"lr": 1e-3, "l2": 0.0, "batch_size": 128, "schedule": "constant"}  # their beta2 is 0.98
    recipes: ClassVar = {"authors": _recipe, "port": _recipe}

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        norm: str = "query",
        output: bool = False,
        dropout: float = 0.2,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, heads=heads, length=length)
        require_whole(1, MOST_LAYERS, blocks=blocks)
        require_rates(dropout=dropout)
        require_choice(("query", "pre", "post"), norm=norm)
        self.length, self.dropout = length, dropout
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.position_bias = None if "positions" in without else nn.Parameter(torch.empty(length, dim))
        stack = [NormedBlock(dim, heads, norm, output, dropout, without) for _ in range(blocks)]
        self.blocks, self.last_norm = nn.ModuleList(stack), nn.LayerNorm(dim, eps=1e-8)
        parts = (inside(f"blocks.{number}", block.matrices) for number, block in enumerate(stack))
        self.matrices = {name: matrix for part in parts for name, matrix in part.items()}  # type: ignore[misc]
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)  # the table and the positions too, as the authors do
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        windows, row = batch.windows(self.length)
        clicks, off = windows.clicks, self.switched_off
        x = lookup(S, clicks.items) * S.shape[1] ** 0.5  # [C, D]
        if self.position_bias is not None and off != "positions":
            x = x + self.position_bias.index_select(0, clicks.position)
        x = dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x, clicks, off)  # [C, D]
        return batch.clicks.padded(self.last_norm(x).index_select(0, row))  # [B, L, D]
