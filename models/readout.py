"""Readouts: from the states of the clicks to session vectors, for any encoder. SR-GNN's, NARM's, and the paper's
Atten-Mixer.

Letters as in models/base.py: B sessions, C clicks, D width, H heads; and M queries of a session, one for each level.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import Matrix
from models.dropout import dropout
from models.limits import require_choice
from models.normalise import unit
from models.released import LEVELS, SWITCHES, ReleasedReadout, require_levels, require_numbers
from models.rows import Clicks
from models.search import Choice, Int, Space, only_with


class AttentionReadout(nn.Module):
    """SR-GNN's (AAAI 2019), and NISER's: attention without softmax, with the last click as the query."""

    matrices: ClassVar = {
        "attend_last": Matrix("attention", "readout"),  # [D, D]
        "attend_all": Matrix("attention", "readout"),  # [D, D]
        "attend_score": Matrix("attention", "readout"),  # [1, D]
        "transform": Matrix("transformation", "readout", cols=("global", "last")),  # [D, 2D]
    }

    attend_last: Any  # None without attention, as are the next two
    attend_all: Any
    attend_score: Any

    def __init__(self, dim: int, attend: bool = True) -> None:
        super().__init__()
        self.attend_last = nn.Linear(dim, dim) if attend else None
        self.attend_all = nn.Linear(dim, dim) if attend else None
        self.attend_score = nn.Linear(dim, 1, bias=False) if attend else None
        self.transform = nn.Linear(2 * dim, dim)

    def warnings(self, longest: int) -> list[str]:
        return []

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False, beside: Tensor | None = None) -> Tensor:
        """Session vectors [B, D] from click states [C, D]; `uniform` gives all clicks of a session the mean weight.

        `beside` [B, D] is added to the query, for a model that asks with more than the last click.
        """
        last = h.index_select(0, clicks.last)  # [B, D]
        if self.attend_score is None:
            overall = clicks.mean(h)
        else:
            query = self.attend_last(last) if beside is None else self.attend_last(last) + beside
            alpha = self.attend_score(torch.sigmoid(clicks.spread(query) + self.attend_all(h)))  # [C, 1], Equation 6
            overall = clicks.sum((clicks.spread(clicks.mean(alpha)) if uniform else alpha) * h)
        return self.transform(torch.cat([overall, last], 1))  # Equation 7


class LocalGlobalReadout(nn.Module):
    """NARM's (CIKM 2017): the weighted sum of the states (local) beside the last state (global), without biases.

    hidden, dim  h and D, the widths of the states and of the session vectors
    softmax      whether the weights of a session add up to 1
    dropout      probability at the two parts
    attend       False replaces the attention by the mean of the clicks
    """

    matrices: ClassVar = {
        "attend_last": Matrix("attention", "readout"),  # A1 [h, h]
        "attend_all": Matrix("attention", "readout"),  # A2 [h, h]
        "attend_score": Matrix("attention", "readout"),  # v [1, h]
        "transform": Matrix("transformation", "readout", cols=("local", "global")),  # B [D, 2h]
    }

    attend_last: Any  # None without attention, as are the next two
    attend_all: Any
    attend_score: Any

    def __init__(self, hidden: int, dim: int, softmax: bool, dropout: float, attend: bool = True) -> None:
        super().__init__()
        self.softmax, self.dropout = softmax, dropout
        self.attend_last = nn.Linear(hidden, hidden, bias=False) if attend else None
        self.attend_all = nn.Linear(hidden, hidden, bias=False) if attend else None
        self.attend_score = nn.Linear(hidden, 1, bias=False) if attend else None
        self.transform = nn.Linear(2 * hidden, dim, bias=False)

    def warnings(self, longest: int) -> list[str]:
        return []

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """Session vectors [B, D] from click states [C, h]; `uniform` gives all clicks of a session the mean weight."""
        last = h.index_select(0, clicks.last)  # [B, h]
        if self.attend_score is None:
            local = clicks.mean(h)
        else:
            alpha = self.attend_score(torch.sigmoid(clicks.spread(self.attend_last(last)) + self.attend_all(h)))
            alpha = clicks.softmax(alpha) if self.softmax else alpha  # [C, 1]
            local = clicks.sum((clicks.spread(clicks.mean(alpha)) if uniform else alpha) * h)
        return self.transform(dropout(torch.cat([local, last], 1), self.dropout, self.training))


class AttenMixerReadout(nn.Module):
    """Multi-level attention: Equations 4 to 8 of the paper (Zhang et al., WSDM 2023).

    The score of a candidate is vector . candidate with candidates of unit length: the scale is in the vector.

    dim, levels, heads  D, M (the paper's L), H
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
            widths = [dim * level if self.concat else dim for level in range(1, levels + 1)]
            self.query = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in widths)  # W_l
            self.attend_query = nn.Linear(dim, dim * heads, bias=False)  # row block h is W_h^Q
            self.attend_key = nn.Linear(dim, dim * heads, bias=False)  # and W_h^K
            for level in range(levels):
                ages = tuple(f"last{age}" for age in range(level + 1)) if self.concat else ()
                self.matrices[f"query.{level}"] = Matrix("attention", "readout", cols=ages)
            for name in ("attend_query", "attend_key"):
                self.matrices[name] = Matrix("attention", "readout", rows=tuple(f"head{h}" for h in range(heads)))
        self.transform = nn.Linear((self.heads + 1) * dim, dim, bias=False)  # W_m
        parts = tuple(f"head{h}" for h in range(heads)) if self.heads > 1 else ("global",)
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
        logits = clicks.dots(query, key) / self.attention_scale  # [C, H, M]
        log_alpha = clicks.log_softmax(logits.flatten(1)).unflatten(1, logits.shape[1:])  # Equation 7
        if math.isinf(self.p):
            return log_alpha.amax(2).exp()
        # Equation 8 in logarithms, because x^(1/p) has an infinite slope at 0.
        return ((self.p * log_alpha).logsumexp(2) / self.p).exp()

    def queries(self, h: Tensor, clicks: Clicks) -> Tensor:
        """Q_l of each level, [B, M, D]: Equation 6."""
        recent = torch.stack([clicks.back(h, age) for age in range(self.levels)], 1)  # [B, M, D], latest first
        if self.concat:
            groups = [recent[:, : level + 1].flatten(1) for level in range(self.levels)]
        else:
            groups = list(recent.cumsum(1).unbind(1))
        return torch.stack([W(group) for W, group in zip(self.query, groups, strict=True)], 1)


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
