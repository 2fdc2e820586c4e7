"""GC-SAN: gated propagation over the session graph, then self-attention (Xu et al., IJCAI 2019).

Written from the equations. The Atten-Mixer paper ran a port by others (johnny12150/GC-SAN), which differs: `port`. That
one attends to its padding too, up to the longest session of the file. Here padding never counts.
Letters as in models/base.py: B sessions, C clicks, N nodes, D width, V items, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, init_uniform, inside, lookup
from models.batch import Batch
from models.blocks import PlainBlock
from models.gnn import GatedPropagation
from models.limits import MOST_LAYERS, require, require_rates, require_readout, require_scale, require_whole
from models.mixer import MIXED, MIXED_SEARCH, READOUT_OPTIONS, atten_mixer_readout
from models.search import DROPOUT, SCALE, Float, Int, only_with


class GCSAN(SessionModel):
    """Gated propagation, k blocks of self-attention and feed-forward, and the last click before and after them.

    The blocks count as the readout, as in Figure 8 of the Atten-Mixer paper; before another readout, as the encoder.

    n_items, dim  V, D
    steps    how often the states are propagated
    blocks   k; the paper tries several, the port has 4
    shared   all blocks have the same weights, as in the port; in the paper each has its own
    heads    H; the paper and the port have one
    output   self-attention has an output matrix, and biases, as in the port; the paper has query, key and value only
    omega    weight of the last click after the blocks; before them it has 1 - omega
    dropout  probability inside the feed-forward, as in the port
    readout  "last", GC-SAN's own; "attenmixer": multi-level attention over the same sums, of all clicks
    scale    sigma; only with attenmixer, as are the `switches`: levels, p, ... of its readout, but not its heads
    without  parts left out: "propagation" (messages are zero), "gnn" (states are the embeddings), "attention" (each
             click gets their mean), "self-attention" (it keeps its own state), "transformation" (the feed-forward)
    """

    readout: Any
    removable = ("propagation", "gnn", "attention", "self-attention", "transformation")
    more_options: ClassVar = {name: value for name, value in READOUT_OPTIONS.items() if name != "heads"}
    in_name = ("readout",)
    search: ClassVar = {
        "steps": Int(1, 2),
        "blocks": Int(1, 4),
        "dropout": DROPOUT,
        **only_with({"omega": Float(0.1, 0.9, step=0.1)}, ("readout", "last")),
        **only_with({"scale": SCALE}, MIXED),
        "levels": MIXED_SEARCH["levels"],
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        # Its own paper; width and blocks are the port's.
        "paper": {"dim": 120, "blocks": 4},
        "port": {"dim": 120, "blocks": 4, "shared": True, "output": True, "omega": 0.52, "dropout": 0.2},
        "table2": {"dim": 256},  # Table 2 of the Atten-Mixer paper, with batches of 100
        "attenmixer": {"readout": "attenmixer"},  # as in its Table 3
    }
    recipes: ClassVar = {"port": {"lr": 1e-3, "l2": 1e-5, "batch_size": 50}, "table2": {"batch_size": 100}}

    def __init__(
        self,
        n_items: int,
        dim: int = 120,
        steps: int = 1,
        blocks: int = 1,
        shared: bool = False,
        heads: int = 1,
        output: bool = False,
        omega: float = 0.6,
        dropout: float = 0.2,
        readout: str = "last",
        scale: float = 12.0,
        without: Collection[str] = (),
        **switches: Any,
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, heads=heads)
        require_whole(1, MOST_LAYERS, blocks=blocks)
        require_whole(0, MOST_LAYERS, steps=steps)  # 0: no graph
        require("from 0 to 1", lambda x: 0 <= x <= 1, omega=omega)
        require_rates(dropout=dropout)
        require_scale(scale=scale)
        require_readout(readout, "last", switches if scale == 12.0 else {"scale": scale, **switches})
        self.omega, self.k, self.unit_candidates = omega, blocks, readout == "attenmixer"
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        has_graph = steps > 0 and "gnn" not in without
        self.gnn = GatedPropagation(dim, steps, listens="propagation" not in without) if has_graph else None
        module = "encoder" if readout == "attenmixer" else "readout"
        stack = [PlainBlock(dim, heads, output, dropout, module, without) for _ in range(1 if shared else blocks)]
        self.blocks, self.readout = nn.ModuleList(stack), None
        matrices = inside("gnn", GatedPropagation.matrices)
        for number, block in enumerate(stack):
            matrices |= inside(f"blocks.{number}", block.matrices)
        if readout == "attenmixer":
            self.readout = atten_mixer_readout(dim, scale=scale, attend="attention" not in without, **switches)
            matrices |= inside("readout", self.readout.matrices)
        self.matrices: Mapping[str, Matrix] = matrices  # type: ignore[misc]  # they depend on the options
        init_uniform(self, dim)

    def warnings(self, longest: int) -> list[str]:
        return [] if self.readout is None else list(self.readout.warnings(longest))

    def item_states(self) -> Tensor:
        return self.items

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        h, clicks, off = lookup(S, batch.nodes.items), batch.clicks, self.switched_off  # [N, D]
        if self.gnn is not None and off != "gnn":
            h = self.gnn(h, batch.edges, listens=off != "propagation")
        E = h = batch.nodes.to_clicks(h)  # [C, D]
        for number in range(self.k):
            E = self.blocks[number % len(self.blocks)](E, clicks, off)  # [C, D]
        u = self.omega * E + (1 - self.omega) * h
        if self.readout is not None:
            return self.readout(u, clicks, uniform=off == "attention")
        return u.index_select(0, clicks.last)  # [B, D]
