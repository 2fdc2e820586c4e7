"""Atten-Mixer's readout with all its switches, for the released code and the paper's ablations.

The released code differs from the equations (mixer.py) in ways that change the model; models/attenmixer.py has the
presets. It works on padded sessions, and for some switches the padding is a part of the model.

Letters as in models/base.py: B sessions, L slots of a padded session, D width, H heads; and K levels, M queries of a
session (K, or K for each click), E numbers of one head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Matrix, head_names
from models.levels import LEVELS, level_maps, level_matrices, level_queries, pooled, require_levels, require_numbers
from models.limits import require_choice, require_heads, require_rates, require_whole
from models.normalise import EPS, unit
from models.rows import Clicks

FAR_BELOW = -1e4  # the logit of a slot without a click: finite, so that its gradient is zero and not NaN

SWITCHES: dict[str, tuple[str, ...]] = {
    "query": ("sum", "concat"),
    "windows": ("last", "all"),
    "query_norm": ("none", "levels", "features"),
    "short": ("clamp", "drop"),
    "head_layout": ("full", "split", "raw_view"),
    "attention": ("softmax", "sigmoid"),
    "readout_norm": ("l2", "layer"),
}


class ReleasedReadout(nn.Module):
    """AttenMixerReadout (mixer.py) with other choices for each of its steps.

    windows        "last": level l asks with the last l clicks; "all": with every l clicks in a row (-IP of Table 4)
    query_norm     "levels": each feature of the queries has length 1 over the levels (released code);
                   "features": each query has length 1
    short          levels above the length of the session: "clamp" sums the clicks there are, "drop"
                   leaves the level out
    head_layout    "full": every head maps to D numbers and weighs whole states (Equations 7 and 8 as
                   printed); "split": a head has D / H numbers and weighs its own part of the states;
                   "raw_view": split as in the released code, which mixes heads, levels and clicks
    attention      "softmax" over the clicks, Equation 7; "sigmoid": the released code's
                   softmax(2 sigmoid) over all slots, padding included, then softmax(2 weights)
                   over the clicks after the pooling
    value          the states are mapped before they are weighed
    readout_norm   of the weighted states: "l2" length 1, "layer" LayerNorm
    score_norm     the session vector has length 1 before the scale
    bias           of every Linear layer
    attention_dropout  probability
    padded_length  slots of a session, if the result depends on them ("sigmoid", "raw_view"): longer sessions keep their
                   last padded_length - 1 clicks, so that the last slot is empty

    Raises ValueError for unknown or contradicting switches.
    """

    def __init__(
        self,
        dim: int,
        levels: int = LEVELS,
        heads: int = 8,
        p: float = 4.0,
        scale: float = 12.0,
        *,
        query: str = "sum",
        windows: str = "last",
        query_norm: str = "none",
        short: str = "clamp",
        head_layout: str = "full",
        attention: str = "softmax",
        attention_scale: float | None = None,
        value: bool = False,
        readout_norm: str = "l2",
        score_norm: bool = False,
        bias: bool = False,
        attention_dropout: float = 0.0,
        padded_length: int | None = None,
        attend: bool = True,
    ) -> None:
        super().__init__()
        require_numbers(levels, heads, p, scale, attention_scale)
        require_rates(attention_dropout=attention_dropout)
        switches = {"query": query, "windows": windows, "query_norm": query_norm, "short": short}
        switches |= {"head_layout": head_layout, "attention": attention, "readout_norm": readout_norm}
        _check(dim, heads, padded_length, switches)
        self.levels, self.p, self.scale = levels, p, scale
        whole = head_layout == "full"
        self.heads = heads if attend or not whole else 1
        self.concat, self.windows, self.query_norm, self.short = query == "concat", windows, query_norm, short
        self.head_layout, self.sigmoid = head_layout, attention == "sigmoid"
        self.attention_scale = dim**0.5 if attention_scale is None else attention_scale
        self.score_norm, self.attention_dropout, self.padded_length = score_norm, attention_dropout, padded_length
        self.matrices: dict[str, Matrix] = {}
        self.query: Any = None
        if attend:
            self.query = level_maps(dim, levels, self.concat, bias)
            self.matrices |= level_matrices(levels, self.concat)
            self.attend_query = nn.Linear(dim, dim * heads if whole else dim, bias=bias)
            self.attend_key = nn.Linear(dim, dim * heads if whole else dim, bias=bias)
            blocks = head_names(heads) if head_layout != "raw_view" else ()
            for name in ("attend_query", "attend_key"):
                self.matrices[name] = Matrix("attention", "readout", rows=blocks)
        self.value = nn.Linear(dim, dim, bias=bias) if value else None
        if value:
            self.matrices["value"] = Matrix("transformation", "readout")
        parts = self.heads if whole else 1
        self.norm = nn.LayerNorm(dim * parts, eps=1e-8) if readout_norm == "layer" else None
        self.transform = nn.Linear((parts + 1) * dim, dim, bias=bias)
        cols = head_names(parts) if parts > 1 else ("global",)
        self.matrices["transform"] = Matrix("transformation", "readout", cols=(*cols, "last"))

    def warnings(self, longest: int) -> list[str]:
        require_levels(self.levels, longest)
        if not self.padded_length or self.padded_length > longest:
            return []
        return [
            f"padded_length={self.padded_length}: longer sessions keep only their last {self.padded_length - 1} clicks."
            f" The released code sets it to the longest prefix plus one: here padded_length={longest + 1}."
        ]

    def forward(self, h: Tensor, clicks: Clicks, uniform: bool = False) -> Tensor:
        """Session vectors [B, D] from click states [C, D]; `uniform` weighs all clicks of a session alike."""
        h = unit(h)
        last = h.index_select(0, clicks.last)  # [B, D]
        if self.padded_length is None:
            h, lengths = clicks.padded(h), clicks.lengths  # [B, L, D]
        else:
            most = self.padded_length - 1
            h, lengths = F.pad(clicks.padded(h, most), (0, 0, 0, 1)), clicks.lengths.clamp(max=most)
        real = torch.arange(h.shape[1], device=h.device) < lengths[:, None]  # [B, L]
        if uniform or self.query is None:
            share = real / lengths[:, None].to(h.dtype)
            weights = share[:, None].expand(-1, self.heads, -1)  # [B, H, L]
        else:
            weights = self.weights(self.logits(h, lengths), real, self.used_queries(lengths, h.shape[1]))
        s = self.pool_clicks(weights, h if self.value is None else self.value(h))
        s = unit(s) if self.norm is None else self.norm(s)
        z = self.transform(torch.cat([s, last], 1))
        return self.scale * (unit(z) if self.score_norm else z)

    def logits(self, h: Tensor, lengths: Tensor) -> Tensor:
        """<W^Q Q_m, W^K h_j> of each query and click, [B, H, M, L]."""
        queries = self.queries(h, lengths) if self.windows == "last" else self.queries_everywhere(h)
        query, key = self.by_head(self.attend_query(queries)), self.by_head(self.attend_key(h))
        return query @ key.transpose(2, 3)

    def queries(self, h: Tensor, lengths: Tensor) -> Tensor:
        """Q [B, K, D] of Equation 6 from the clicks h [B, L, D]."""
        place = lengths[:, None] - 1 - torch.arange(self.levels, device=h.device)  # [B, K]
        recent = h.gather(1, place.clamp(min=0)[..., None].expand(-1, -1, h.shape[2])) * (place >= 0)[..., None]
        Q = level_queries(self.query, recent, self.concat)
        if self.query_norm == "none":
            return Q
        return F.normalize(Q, dim=1 if self.query_norm == "levels" else 2, eps=EPS)

    def queries_everywhere(self, h: Tensor) -> Tensor:
        """Queries [B, K L, D] of the windows of 1..K clicks that start at each click of h [B, L, D]."""
        window, Q = h, []
        for level, W in enumerate(self.query):
            if level:  # the click that stands `level` after the first one joins
                window = window + F.pad(h, (0, 0, 0, level))[:, level:]
            Q.append(W(window))
        return torch.cat(Q, 1)

    def used_queries(self, lengths: Tensor, width: int) -> Tensor | None:
        """Which queries count [B, M]; None: all. A session shorter than a level has one window of it."""
        fits = lengths[:, None] - torch.arange(self.levels, device=lengths.device)  # windows of each level [B, K]
        if self.windows == "last":
            return fits > 0 if self.short == "drop" else None
        if self.short == "clamp":
            fits = fits.clamp(min=1)
        return (torch.arange(width, device=lengths.device) < fits[..., None]).flatten(1)

    def weights(self, logits: Tensor, real: Tensor, used: Tensor | None) -> Tensor:
        """Attention of each head on each click [B, H, L], pooled over the queries, from logits [B, H, M, L].

        `real` [B, L] are the slots with a click, `used` [B, M] the queries that count (None: all).
        """
        logits, empty = logits / self.attention_scale, ~real[:, None]  # [B, 1, L]
        if self.sigmoid:
            pooled = self.pool_queries((2 * logits.sigmoid()).log_softmax(3), used)
            weights = (2 * pooled).masked_fill(empty, -math.inf).softmax(2)
        else:
            log_a = logits.masked_fill(empty[:, None], FAR_BELOW).log_softmax(3)
            weights = self.pool_queries(log_a, used)  # exp(FAR_BELOW) is 0
        return F.dropout(weights, self.attention_dropout, self.training)

    def pool_queries(self, log_a: Tensor, used: Tensor | None) -> Tensor:
        """`pooled` over the queries, [B, H, L] from log a [B, H, M, L]. Queries not `used` [B, M] add nothing."""
        if used is not None:
            log_a = log_a.masked_fill(~used[:, None, :, None], -math.inf)
        return pooled(log_a, self.p)

    def by_head(self, x: Tensor) -> Tensor:
        """[B, n, HE] as [B, H, n, E]; "raw_view" only reads the memory of a session in this shape."""
        b, n, size = x.shape
        if self.head_layout == "raw_view":
            return x.reshape(b, self.heads, n, size // self.heads)
        return x.view(b, n, self.heads, size // self.heads).transpose(1, 2)

    def pool_clicks(self, weights: Tensor, values: Tensor) -> Tensor:
        """s [B, HD] ("full") or [B, D]: values [B, L, D] weighed by [B, H, L], the heads side by side."""
        if self.head_layout == "full":
            return (weights @ values).flatten(1)
        by_head = values.view(*values.shape[:2], self.heads, -1)  # [B, L, H, E]
        return (weights.transpose(1, 2)[..., None] * by_head).sum(1).flatten(1)


def _check(dim: int, heads: int, padded_length: int | None, switches: Mapping[str, str]) -> None:
    """Raises ValueError for switches that are unknown or contradict each other."""
    for name, valid in SWITCHES.items():
        require_choice(valid, **{name: switches[name]})
    layout = switches["head_layout"]
    if layout != "full":
        require_heads(heads, dim)
    is_plain = switches["query"] == "sum" and switches["query_norm"] == "none" and layout != "raw_view"
    if switches["windows"] == "all" and not is_plain:
        raise ValueError("windows='all' goes with query='sum', query_norm='none' and true heads only")
    if padded_length is not None:
        require_whole(2, padded_length=padded_length)  # a click and an empty slot
    elif switches["attention"] == "sigmoid" or layout == "raw_view":
        raise ValueError(
            "attention='sigmoid' and head_layout='raw_view' depend on the padding:"
            " padded_length is needed, the longest prefix of the data + 1"
        )
