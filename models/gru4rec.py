"""GRU4Rec: a recurrent network over the clicks of a session (Hidasi et al., ICLR 2016; losses: CIKM 2018).

After the authors' PyTorch version, with their constrained embedding: one item table is input and output. What differs:

- Their batches run through many sessions side by side, one click a step, with gradients through that one step. Here an
  example is a whole session with a target after every click, and gradients run back to its first click.
- Their dropout falls on the state that the next click finds, too. Here it falls on what a layer gives away.
- Their Adagrad has momentum; `--optimiser adagrad` has none.
- Their sampled cross-entropy counts the targets of the batch among the samples. Here only bpr-max and top1-max do;
  the cross-entropy of `--negatives` corrects each drawn item by its share.

Letters as in models/base.py: B sessions, L clicks of the longest, C clicks, D width, V items; and H units.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, lookup
from models.batch import Batch
from models.dropout import dropout
from models.gnn import GATES
from models.limits import MOST_LAYERS, require_rates, require_whole
from models.search import DROPOUT, Int


class GRU4Rec(SessionModel):
    """A GRU over the clicks; its state after a click, times the item table, plus a bias per item.

    n_items         V
    dim             D
    hidden          H, units of each layer; None: D. Another number needs `dense`
    layers          of the GRU
    dropout         probability at the item states of the clicks
    hidden_dropout  probability at the output of each layer
    dense           True maps the states from H to D by a Linear of its own, as RecBole does
    bias            False leaves the bias per item out
    without         "encoder": the vector after a click is the state of its item, so only the last click counts
    """

    removable = ("encoder",)
    search: ClassVar = {"layers": Int(1, 2), "dropout": DROPOUT, "hidden_dropout": DROPOUT}
    every_position = True
    whole_bias = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # The best on Diginetica by the authors' PyTorch version, with bpr-max.
        "authors": {"dim": 512, "dropout": 0.5, "hidden_dropout": 0.3},
        # RecBole's. Its GRU has no biases, and its examples are prefixes.
        "recbole": {"dim": 64, "hidden": 128, "dropout": 0.3, "dense": True, "bias": False},
        "paper": {"dim": 256},  # the width of the Atten-Mixer paper, section 5.1; not in its tables
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {
            "loss": "bpr-max",
            "negatives": 2048,
            "sample_alpha": 0.3,
            "bpreg": 0.9,
            "elu": 1.0,
            "optimiser": "adagrad",
            "lr": 0.05,
            "schedule": "constant",
            "l2": 0.0,
            "batch_size": 32,  # whole sessions: about as many targets a step as their 128 sessions of one click
        },
        "recbole": {"lr": 1e-3, "schedule": "constant", "l2": 0.0, "batch_size": 512},  # about its 2,048 targets
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        hidden: int | None = None,
        layers: int = 1,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        dense: bool = False,
        bias: bool = True,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        H = dim if hidden is None else hidden
        require_whole(1, n_items=n_items, dim=dim, hidden=H)
        require_whole(1, MOST_LAYERS, layers=layers)
        require_rates(dropout=dropout, hidden_dropout=hidden_dropout)
        if dim != H and not dense:
            raise ValueError(f"hidden={H} is not the width {dim} of the items: dense=True maps one to the other")
        self.dropout, self.hidden_dropout, listens = dropout, hidden_dropout, "encoder" not in without
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.item_bias = nn.Parameter(torch.zeros(n_items)) if bias else None
        between = hidden_dropout if layers > 1 else 0.0
        self.gru = nn.GRU(dim, H, layers, dropout=between, batch_first=True) if listens else None
        self.dense = nn.Linear(H, dim) if listens and dense else None
        names = [f"gru.weight_{side}_l{layer}" for layer in range(layers) for side in ("ih", "hh")]
        self.matrices: Mapping[str, Matrix] = {  # type: ignore[misc]  # as many as there are layers
            **{name: Matrix("encoder", "encoder", rows=GATES) for name in names},  # [3H, D] and [3H, H]
            **({"dense": Matrix("transformation", "encoder")} if dense else {}),  # [D, H]
        }
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """As the authors do: each matrix, and each gate as one, from U(-b, b), b^2 = 6 / (rows + columns); biases 0."""
        for name, parameter in self.named_parameters():
            parameter.zero_()
            for block in parameter.chunk(len(GATES)) if name.startswith("gru") else (parameter,):
                if block.dim() == 2:
                    nn.init.xavier_uniform_(block)

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.clicks
        x = dropout(lookup(S, clicks.items), self.dropout, self.training)  # [C, D]
        if self.gru is None or self.switched_off == "encoder":
            return clicks.padded(x)  # [B, L, D]
        h = dropout(clicks.states(self.gru, x), self.hidden_dropout, self.training)  # [C, H]
        return clicks.padded(h if self.dense is None else self.dense(h))  # [B, L, D]

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        return S, self.item_bias
