"""NARM: a GRU over the clicks, and attention with its last state as the query (Li et al., CIKM 2017).

The attention of the paper and of both PyTorch ports has no softmax; the authors' Theano code has one. The gates are
those of nn.GRU: in the Theano code they are piecewise linear, as is the attention, and r comes before the product.

Letters as in models/base.py: B sessions, C clicks, L clicks of the longest session, D width of the items; and h units.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Matrix, SessionModel, inside, lookup
from models.batch import Batch
from models.dropout import dropout
from models.gnn import GATES
from models.limits import require_choice, require_rates, require_readout, require_whole
from models.mixer import MIXED, MIXED_SEARCH, READOUT_OPTIONS, atten_mixer_readout
from models.narm_init import INITS, initialise
from models.readout import LocalGlobalReadout
from models.search import DROPOUT, SCALE, only_with


class NARM(SessionModel):
    """A GRU over the clicks, then attention over its states.

    n_items    V
    dim        D
    hidden     h, the units of the GRU; None: D
    softmax    whether the weights of a session add up to 1, as in the authors' code; False is the paper's attention
    gru_bias   False leaves the biases of the GRU out, as RecBole does
    dropout    probability at the item states of the clicks
    session_dropout  probability at the two parts of the session vector
    init       "uniform", U(+-1/sqrt(D)) throughout; or that of a source: "authors", "port", "recbole"
    readout    "narm", or "attenmixer": multi-level attention on the states of the GRU, which needs hidden = D
    without    roles left out of the model: "encoder" (states are the embeddings), "attention" (the mean of the clicks).
               `switched_off` cuts the embeddings to h numbers, or fills them up with zeros
    switches   arguments of Atten-Mixer's readout: scale, levels, heads, p, ...
    """

    readout: Any
    gru: Any  # None without encoder
    matrices: ClassVar = {
        "gru": Matrix("encoder", "encoder", rows=GATES),  # [3h, D] and [3h, h]
        **inside("readout", LocalGlobalReadout.matrices),
    }
    removable = ("encoder", "attention")
    more_options: ClassVar = {"scale": 12.0, **READOUT_OPTIONS}
    in_name = ("readout",)
    search: ClassVar = {
        "dropout": DROPOUT,
        **only_with({"session_dropout": DROPOUT}, ("readout", "narm")),
        **only_with({"scale": SCALE}, MIXED),
        **MIXED_SEARCH,
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"dim": 256},  # Atten-Mixer paper, section 5.1
        "authors": {"dim": 50, "hidden": 100, "softmax": True, "init": "authors"},  # NARM's own, in Theano
        "port": {"dim": 50, "hidden": 100, "init": "port"},  # Wang-Shuo's in PyTorch
        "recbole": {"dim": 64, "hidden": 128, "gru_bias": False, "init": "recbole"},
        "attenmixer": {"readout": "attenmixer"},
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        source: {"lr": 1e-3, "l2": 0.0, "schedule": "constant", "batch_size": size}  # the port's first 80 epochs
        for source, size in (("authors", 512), ("port", 512), ("recbole", 2048))
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 256,
        hidden: int | None = None,
        softmax: bool = False,
        gru_bias: bool = True,
        dropout: float = 0.25,
        session_dropout: float = 0.5,
        init: str = "uniform",
        readout: str = "narm",
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        hidden = dim if hidden is None else hidden
        require_whole(1, n_items=n_items, dim=dim, hidden=hidden)
        require_rates(dropout=dropout, session_dropout=session_dropout)
        require_choice(INITS, init=init)
        require_readout(readout, "narm", switches)
        if readout == "attenmixer" and hidden != dim:
            raise ValueError(f"readout='attenmixer' needs hidden = dim, not hidden={hidden} with dim={dim}")
        own = {"softmax": (softmax, False), "session_dropout": (session_dropout, 0.5), "init": (init, "uniform")}
        for name, (value, usual) in own.items():
            if readout == "attenmixer" and value != usual:
                raise ValueError(f"{name}={value!r}: only with readout='narm'")
        self.dropout, self.hidden, self.unit_candidates = dropout, hidden, readout == "attenmixer"
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.gru = None if "encoder" in without else nn.GRU(dim, hidden, bias=gru_bias, batch_first=True)
        attend = "attention" not in without
        if readout == "attenmixer":
            self.readout = atten_mixer_readout(dim, attend=attend, **switches)
            mixer = inside("readout", self.readout.matrices)  # another readout, other matrices
            self.matrices: Mapping[str, Matrix] = {"gru": NARM.matrices["gru"], **mixer}  # type: ignore[misc]
        else:
            width = dim if self.gru is None else hidden
            self.readout = LocalGlobalReadout(width, dim, softmax, session_dropout, attend)
        initialise(self, init)

    def warnings(self, longest: int) -> list[str]:
        return list(self.readout.warnings(longest))

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.clicks
        e = dropout(lookup(S, clicks.items), self.dropout, self.training)  # [C, D]
        if self.gru is None:
            h = e
        elif self.switched_off == "encoder":
            h = F.pad(e, (0, self.hidden - e.shape[1]))  # [C, h]
        else:
            h = clicks.states(self.gru, e)  # [C, h]
        return self.readout(h, clicks, uniform=self.switched_off == "attention")  # [B, D]
