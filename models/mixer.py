"""Atten-Mixer's readout, for any encoder: from the states of the clicks to session vectors.

Letters as in models/base.py: B sessions, C clicks, D width, H heads; and K levels (the paper's L), each with a query.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from models.base import Matrix, head_names
from models.levels import LEVELS, level_maps, level_matrices, level_queries, pooled, require_levels, require_numbers
from models.limits import require_choice
from models.normalise import unit
from models.released import SWITCHES, ReleasedReadout
from models.rows import Clicks
from models.search import Choice, Int, Space, only_with


class AttenMixerReadout(nn.Module):
    """Multi-level attention: Equations 4 to 8 of the paper (Zhang et al., WSDM 2023).

    The score of a candidate is vector . candidate with candidates of unit length: the scale is in the vector.

    dim, levels, heads  D, K, H
    p                   exponent of the pooling over levels (Equation 8); math.inf takes the largest
    scale               sigma of Equation 5
    query               "sum": W_l maps the sum of the last l clicks (Equation 6); "concat": their concatenation,
                        latest first, zeros if there are fewer (-LI of Table 4)
    attention_scale     what logits are divided by; None is sqrt(D), Equation 7
    attend              False replaces the attention by the mean of the clicks, once and not for each head
    """

    def __init__(
        self,
        dim: int,
        levels: int = LEVELS,
        heads: int = 8,
        p: float = 4.0,
        scale: float = 12.0,
        query: str = "sum",
        attention_scale: float | None = None,
        attend: bool = True,
    ) -> None:
        super().__init__()
        require_choice(SWITCHES["query"], query=query)
        require_numbers(levels, heads, p, scale, attention_scale)
        self.levels, self.heads, self.p, self.scale = levels, heads if attend else 1, p, scale
        self.concat = query == "concat"
        self.attention_scale = dim**0.5 if attention_scale is None else attention_scale
        self.query: Any = None
        self.matrices: dict[str, Matrix] = {}
        if attend:
            self.query = level_maps(dim, levels, self.concat)  # W_l
            self.attend_query = nn.Linear(dim, dim * heads, bias=False)  # row block h is W_h^Q
            self.attend_key = nn.Linear(dim, dim * heads, bias=False)  # and W_h^K
            self.matrices |= level_matrices(levels, self.concat)
            for name in ("attend_query", "attend_key"):
                self.matrices[name] = Matrix("attention", "readout", rows=head_names(heads))
        self.transform = nn.Linear((self.heads + 1) * dim, dim, bias=False)  # W_m
        parts = head_names(heads) if self.heads > 1 else ("global",)
        self.matrices["transform"] = Matrix("transformation", "readout", cols=(*parts, "last"))

    def warnings(self, longest: int) -> list[str]:
        require_levels(self.levels, longest)
        return []

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """Session vectors [B, D] from click states [C, D]; `uniform` weighs all clicks of a session alike."""
        h = unit(h)
        if uniform or self.query is None:
            s = clicks.mean(h).repeat(1, self.heads)
        else:
            # In a session of one click the weight does not matter: s gets unit length. Such sessions come first.
            lone = clicks.lone
            rest = clicks.after(lone)
            a = self.weights(h[lone:], rest)  # [C', H]
            s = torch.cat([h[:lone].repeat(1, self.heads), rest.weighted_sums(a, h[lone:]).flatten(1)])  # [B, HD]
        last = h.index_select(0, clicks.last)
        return self.scale * self.transform(torch.cat([unit(s), last], 1))  # Equation 4, with the scale of Equation 5

    def weights(self, h: Tensor, clicks: Clicks) -> Tensor:
        """The weight of each click for each head, [C, H]: Equations 7 and 8."""
        Q, each = self.queries(h, clicks), (self.heads, h.shape[1])
        query, key = self.attend_query(Q).unflatten(2, each), self.attend_key(h).unflatten(1, each)
        logits = clicks.dots(query, key) / self.attention_scale  # [C, H, K]
        log_alpha = clicks.log_softmax(logits.flatten(1)).unflatten(1, logits.shape[1:])  # Equation 7
        return pooled(log_alpha, self.p)

    def queries(self, h: Tensor, clicks: Clicks) -> Tensor:
        """Q_l of each level, [B, K, D]: Equation 6."""
        recent = torch.stack([clicks.back(h, age) for age in range(self.levels)], 1)  # [B, K, D], latest first
        return level_queries(self.query, recent, self.concat)


def _arguments(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("dim", "scale", "attend")}


# Options that a model takes and passes on to one of these readouts.
READOUT_OPTIONS = {**_arguments(ReleasedReadout), **_arguments(AttenMixerReadout)}
# The ranges of the paper, section 5.1; it sets p = 4.
READOUT_SEARCH: dict[str, Space] = {"levels": Int(1, 10), "heads": Choice((1, 2, 4, 8, 16, 32))}
MIXED = ("readout", "attenmixer")
MIXED_SEARCH = only_with(READOUT_SEARCH, MIXED)  # of a model with a readout of its own


def atten_mixer_readout(dim: int, **options: Any) -> nn.Module:
    """The paper's readout, or ReleasedReadout if an option needs it (released code, ablations)."""
    special = {name: value for name, value in options.items() if READOUT_OPTIONS.get(name) != value}
    is_paper = special.keys() <= inspect.signature(AttenMixerReadout).parameters.keys()
    return AttenMixerReadout(dim, **special) if is_paper else ReleasedReadout(dim, **options)
