"""NextItNet: residual blocks of dilated causal convolutions over the clicks (Yuan et al., WSDM 2019).

Letters as in models/base.py: B sessions, L clicks of the longest, C clicks, D width, V items.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix, SessionModel, lookup
from models.batch import Batch
from models.dilated import TAPS, ResidualBlock
from models.limits import require_whole
from models.search import Choice, Int

MOST_BLOCKS = 64
MOST_DILATION = 10_000  # clicks


class NextItNet(SessionModel):
    """Dilated causal convolutions; every click of a session predicts the next one.

    n_items, dim    V, D
    dilations       d of the residual blocks, separated by commas
    repeats         how often the list of dilations is gone through
    tied            False: the candidates are a table of their own with biases, and meet relu(x), as the authors wrote;
                    True: they are the item table, and meet a Linear of x (RecBole). Initial values are of that source
    every_position  True: a target after every click of a session, as the authors train; False: after the last (RecBole)
    without         roles left out of the model: "encoder" (no blocks: the embedding of the last click)
    """

    removable = ("encoder",)
    search: ClassVar = {"dilations": Choice(("1,2", "1,4", "1,2,4")), "repeats": Int(1, 5)}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"dim": 100, "dilations": "1,2", "repeats": 4},  # nextitnet_topk.py; nextitrec.py repeats 3 times
        "recbole": {"dim": 64, "dilations": "1,4", "repeats": 5, "tied": True, "every_position": False},
        "session-rec": {"dim": 100, "dilations": "1,4", "repeats": 1},  # its settings for Diginetica
        "paper": {"dim": 256, "dilations": "1,2", "repeats": 4},  # width and batches of the Atten-Mixer paper
    }
    recipes: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {"lr": 1e-3, "l2": 0.0, "batch_size": 128, "schedule": "constant"},
        "recbole": {"lr": 1e-3, "l2": 0.0, "batch_size": 2048, "schedule": "constant"},  # without its penalty of norms
        "session-rec": {"lr": 3e-3, "l2": 0.0, "batch_size": 32, "schedule": "constant"},  # without its beta_1, 0.99
        "paper": {"batch_size": 100},
    }

    def __init__(
        self,
        n_items: int,
        dim: int = 100,
        dilations: str | int = "1,2",
        repeats: int = 4,
        tied: bool = False,
        every_position: bool = True,
        without: Collection[str] = (),
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, dim=dim, repeats=repeats)
        each = [d.strip() for d in str(dilations).split(",")]
        if not all(d.isdecimal() and int(d) for d in each):
            raise ValueError(f"dilations are whole numbers from 1 on, such as '1,2', not {dilations!r}")
        if max(map(int, each)) > MOST_DILATION:
            raise ValueError(f"dilations are at most {MOST_DILATION:,}, not {dilations!r}")
        if repeats * len(each) > MOST_BLOCKS:
            raise ValueError(f"at most {MOST_BLOCKS} blocks, not dilations {dilations!r} with repeats={repeats}")
        self.dim, self.every_position, self.dilations = dim, every_position, [int(d) for d in each] * repeats
        self.items = nn.Parameter(torch.empty(n_items, dim))  # [V, D]
        self.output: Any = None if tied else nn.Parameter(torch.empty(n_items, dim + 1))  # [V, D + 1], the bias last
        self.blocks = nn.ModuleList(ResidualBlock(dim, d) for d in self.dilations if "encoder" not in without)
        self.transform = nn.Linear(dim, dim) if tied else None
        names = [f"blocks.{i}.{name}" for i in range(len(self.dilations)) for name in ("first", "second")]
        matrices = dict.fromkeys(names, Matrix("encoder", "encoder", cols=TAPS))
        matrices |= {"transform": Matrix("transformation", "readout")} if tied else {}
        self.matrices: Mapping[str, Matrix] = matrices  # type: ignore[misc]  # as many as there are blocks
        self._init()

    @torch.no_grad()
    def _init(self) -> None:
        """As the authors, or as RecBole if the output is tied; norms, and RecBole's convolutions, as PyTorch does."""
        if self.transform is not None:
            nn.init.uniform_(self.items, -(len(self.items) ** -0.5), len(self.items) ** -0.5)
            nn.init.xavier_normal_(self.transform.weight)
            self.transform.bias.fill_(0.1)
            return
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.trunc_normal_(p, std=0.02, a=-0.04, b=0.04)
            elif name.endswith("bias"):
                p.zero_()
        self.output[:, -1] = 0.0

    def warnings(self, longest: int) -> list[str]:
        blind = ", ".join(str(d) for d in sorted({*self.dilations}) if 2 * d >= longest)
        return [f"in blocks of dilation {blind} the second convolution never sees an earlier click"] if blind else []

    def item_states(self) -> Tensor:
        """[V, D]; [V, 2D + 1] with an output of its own, in further columns."""
        return self.items if self.output is None else torch.cat([self.items, self.output], 1)

    def encode(self, S: Tensor, batch: Batch) -> Tensor:
        clicks = batch.clicks
        x = lookup(S, clicks.items)[:, : self.dim]  # [C, D]
        for block in self.blocks if self.switched_off != "encoder" else ():
            x = block(x, clicks)
        x = x if self.every_position else x.index_select(0, clicks.last)  # [C, D] or [B, D]
        x = torch.relu(x) if self.transform is None else self.transform(x)
        return clicks.padded(x) if self.every_position else x  # [B, L, D] or [B, D]

    def candidates(self, S: Tensor) -> tuple[Tensor, Tensor | None]:
        _, output, bias = (None, S, None) if self.output is None else S.split((self.dim, self.dim, 1), 1)
        return output, None if bias is None else bias[:, 0]
