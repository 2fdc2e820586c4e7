"""Atten-Mixer's readout: multi-level attention over the clicks of a session, for any encoder (Zhang et al., WSDM 2023).

One module with switches, because the released code differs from the equations of the paper in ways that change
the model (models/attenmixer.py has the presets).

Letters as in models/base.py: B sessions, C packed clicks, L slots of a padded session, D width, H heads; and K
levels, M queries of a session (K, or K for each position), E numbers of one head. h is a click state of unit
length, u the sum of the last clicks, a the attention weights.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Matrix
from models.normalise import EPS, unit

LEVELS = 7
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


class AttenMixerReadout(nn.Module):
    """Session vectors from the states of the clicks, of any encoder.

    The score of a candidate is vector . candidate with candidates of unit length: the scale is in the vector.

    dim, levels, heads  D, K (the paper's L), H
    p                   exponent of the pooling over levels (Equation 8); math.inf takes the largest
    scale               sigma of Equation 5
    query               "sum": W_l maps the sum of the last l clicks (Equation 6); "concat": their
                        concatenation, latest first, zeros where there are fewer (-LI, and the released code)
    windows             "last": level l asks with the last l clicks; "all": with every l clicks in a row (-IP)
    query_norm          "levels": each feature of the queries has length 1 over the levels (released code);
                        "features": each query has length 1
    short               levels above the length of the session: "clamp" sums the clicks there are, "drop"
                        leaves the level out
    head_layout         "full": every head maps to D numbers and weighs whole states (Equations 7 and 8 as
                        printed); "split": a head has D / H numbers and weighs its own part of the states;
                        "raw_view": split as in the released code, which mixes heads, levels and clicks
    attention           "softmax" over the clicks, Equation 7; "sigmoid": the released code's
                        softmax(2 sigmoid) over all slots, padding included, then softmax(2 weights)
                        over the clicks after the pooling
    attention_scale     what logits are divided by; None is sqrt(D), Equation 7
    value               the states are mapped before they are weighed
    readout_norm        of the weighted states: "l2" length 1, "layer" LayerNorm
    score_norm          the session vector has length 1 before the scale
    bias                of every Linear layer
    attention_dropout   probability
    padded_length       slots of a session where the result depends on them ("sigmoid", "raw_view"): longer
                        sessions keep their last padded_length - 1 clicks, so that the last slot is empty
    attend              False leaves the attention out: the mean of the clicks, once and not for each head

    `matrices` names the weight matrices. Raises ValueError for unknown or contradicting switches.
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
        chosen = {
            "query": query,
            "windows": windows,
            "query_norm": query_norm,
            "short": short,
            "head_layout": head_layout,
            "attention": attention,
            "readout_norm": readout_norm,
        }
        for name, choice in chosen.items():
            if choice not in SWITCHES[name]:
                raise ValueError(f"{name} is one of {', '.join(SWITCHES[name])}, not {choice!r}")
        if levels < 1 or heads < 1 or not p >= 1:
            raise ValueError(f"levels, heads and p are at least 1, not {levels}, {heads} and {p}")
        if head_layout != "full" and dim % heads:
            raise ValueError(f"with head_layout={head_layout!r}, {heads} heads must divide the width {dim}")
        if windows == "all" and (query != "sum" or query_norm != "none" or head_layout == "raw_view"):
            raise ValueError("windows='all' goes with query='sum', query_norm='none' and true heads only")
        if padded_length is None and (attention == "sigmoid" or head_layout == "raw_view"):
            raise ValueError(
                "attention='sigmoid' and head_layout='raw_view' depend on the padding:"
                " padded_length is needed, the longest prefix of the data + 1"
            )
        if padded_length is not None and padded_length < 2:
            raise ValueError(f"padded_length is at least 2, a click and an empty slot, not {padded_length}")
        self.dim, self.levels, self.p, self.scale = dim, levels, p, scale
        self.heads = heads if attend or head_layout != "full" else 1
        self.query_kind, self.windows, self.query_norm, self.short = query, windows, query_norm, short
        self.head_layout, self.attention = head_layout, attention
        self.attention_scale = dim**0.5 if attention_scale is None else attention_scale
        self.score_norm, self.attention_dropout = score_norm, attention_dropout
        self.padded_length = padded_length
        whole = head_layout == "full"

        self.matrices: dict[str, Matrix] = {}
        if attend:
            inputs = [dim * level if query == "concat" else dim for level in range(1, levels + 1)]
            self.query = nn.ModuleList(nn.Linear(width, dim, bias=bias) for width in inputs)
            for level in range(levels):
                clicks = tuple(f"last{age}" for age in range(level + 1)) if query == "concat" else ()
                self.matrices[f"query.{level}"] = Matrix("attention", "readout", cols=clicks)
            # Row block h of each is the map of head h, W_h^Q and W_h^K.
            self.attend_query = nn.Linear(dim, dim * heads if whole else dim, bias=bias)
            self.attend_key = nn.Linear(dim, dim * heads if whole else dim, bias=bias)
            blocks = tuple(f"head{h}" for h in range(heads)) if head_layout != "raw_view" else ()
            for name in ("attend_query", "attend_key"):
                self.matrices[name] = Matrix("attention", "readout", rows=blocks)
        if value:
            self.value = nn.Linear(dim, dim, bias=bias)
            self.matrices["value"] = Matrix("transformation", "readout")
        if readout_norm == "layer":
            self.norm = nn.LayerNorm(dim * self.heads if whole else dim, eps=1e-8)
        parts = self.heads if whole else 1
        self.transform = nn.Linear((parts + 1) * dim, dim, bias=bias)
        cols = tuple(f"head{h}" for h in range(parts)) if parts > 1 else ("global",)
        self.matrices["transform"] = Matrix("transformation", "readout", cols=(*cols, "last"))

    def warnings(self, longest: int) -> list[str]:
        """`SessionModel.warnings`. More levels than clicks are an error only where they are more than usual."""
        if self.levels > max(longest, LEVELS):
            raise ValueError(
                f"levels={self.levels} asks with the last 1 to {self.levels} clicks, and the longest prefix has"
                f" {longest}: levels={longest} at most"
            )
        if not self.padded_length or self.padded_length > longest:
            return []
        return [
            f"padded_length={self.padded_length} keeps the last {self.padded_length - 1} clicks of longer sessions. The"
            f" released code takes the longest prefix and an empty slot: here padded_length={longest + 1}."
        ]

    def forward(
        self,
        clicks: Tensor,
        lengths: Tensor,
        *,
        width: int | None = None,
        uniform: bool = False,
    ) -> Tensor:
        """Session vectors [B, D].

        clicks   [C, D] states of the clicks, session by session
        lengths  [B] clicks of each session, at least 1
        width    None: `clicks` are the real clicks only; otherwise they are all slots of padded sessions,
                 [B * width, D], anything in the empty ones, and no shape depends on the lengths
        uniform  weights 1/n in place of attention
        """
        clicks, order = unit(clicks), None
        first = lengths.cumsum(0) - lengths if width is None else arange_like(lengths) * width
        by_length = width is None and self.padded_length is None and self.windows == "last"
        if by_length:
            order = lengths.argsort(stable=True)
            first, lengths = first[order], lengths[order]
        if self.padded_length is not None:
            width = self.padded_length
            cut = (lengths - (width - 1)).clamp(min=0)
            first, lengths = first + cut, lengths - cut
        slot = torch.arange(width or int(lengths.max()), device=lengths.device)
        real = slot < lengths[:, None]  # [B, L]
        h = rows(clicks, torch.where(real, first[:, None] + slot, 0)) * real[..., None]  # [B, L, D]

        if uniform or not hasattr(self, "attend_key"):
            share = real / lengths[:, None].to(h.dtype)  # [B, L]
            weights = share[:, None].expand(-1, self.heads, -1)
        else:
            logits = self.logits_by_length(h, real, lengths) if by_length else self.logits(h, lengths)
            weights = self.weights(logits, real, self.used_queries(lengths, h.shape[1]))
        s = self.pool_clicks(weights, self.values(h, real if by_length else None))
        vectors = self.combine(s, clicks.index_select(0, first + lengths - 1))
        return vectors if order is None else vectors.index_select(0, order.argsort())

    def logits(self, h: Tensor, lengths: Tensor) -> Tensor:
        """<W^Q Q_m, W^K h_j> [B, H, M, L] of each query and click of h [B, L, D]."""
        queries = self.queries(h, lengths) if self.windows == "last" else self.queries_everywhere(h)
        query, key = self.by_head(self.attend_query(queries)), self.by_head(self.attend_key(h))
        return query @ key.transpose(2, 3)

    def logits_by_length(self, h: Tensor, real: Tensor, lengths: Tensor) -> Tensor:
        """`logits` for sessions sorted by length, without the work for empty slots.

        The maps run over real clicks only, and the products over the sessions of one length at a time.
        Sessions of one click, which come first, are left out: their softmax is 1 whatever the weights are.
        """
        lone = int((lengths == 1).sum())
        h, real, lengths = h[lone:], real[lone:], lengths[lone:]
        query = self.attend_query(self.queries(h, lengths))  # [B', K, HE]
        key = self.attend_key(h[real])  # [C', HE]
        heads = (self.heads, key.shape[1] // self.heads)
        logits = _LogitsByLength.apply(  # type: ignore[no-untyped-call]
            query.view(*query.shape[:2], *heads), key.view(len(key), *heads), lengths, h.shape[1]
        )
        return F.pad(logits, (0, 0, 0, 0, 0, 0, lone, 0))

    def queries(self, h: Tensor, lengths: Tensor) -> Tensor:
        """Q [B, K, D] of Equation 6 from the clicks h [B, L, D]."""
        age = torch.arange(self.levels, device=h.device)
        place = lengths[:, None] - 1 - age  # [B, K]
        row = arange_like(lengths)[:, None] * h.shape[1] + place.clamp(min=0)
        recent = rows(h.flatten(0, 1), row) * (place >= 0)[..., None]  # [B, K, D], latest first
        if self.query_kind == "sum":
            groups = list(recent.cumsum(1).unbind(1))  # u_1 .. u_K [B, D]
        else:
            groups = [recent[:, : level + 1].flatten(1) for level in range(self.levels)]
        Q = torch.stack([W(u) for W, u in zip(self.query, groups, strict=True)], 1)
        if self.query_norm == "none":
            return Q
        return F.normalize(Q, dim=1 if self.query_norm == "levels" else 2, eps=EPS)

    def queries_everywhere(self, h: Tensor) -> Tensor:
        """Queries [B, K * L, D] of the windows of 1..K clicks that start at each click of h [B, L, D]."""
        window, Q = h, []
        for level, W in enumerate(self.query):
            if level:  # the click that stands `level` after the first one joins
                window = window + F.pad(h, (0, 0, 0, level))[:, level:]
            Q.append(W(window))
        return torch.cat(Q, 1)

    def used_queries(self, lengths: Tensor, width: int) -> Tensor | None:
        """Which queries count [B, M]; None: all. A session shorter than a level has one window of it."""
        level = torch.arange(self.levels, device=lengths.device)
        fits = lengths[:, None] - level  # windows of each level [B, K]
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
        if self.attention == "softmax":
            log_a = logits.masked_fill(empty[:, None], FAR_BELOW).log_softmax(3)
            weights = self.pool_queries(log_a, used)  # exp(FAR_BELOW) is 0
        else:
            pooled = self.pool_queries((2 * logits.sigmoid()).log_softmax(3), used)
            weights = (2 * pooled).masked_fill(empty, -math.inf).softmax(2)
        return F.dropout(weights, self.attention_dropout, self.training)

    def by_head(self, x: Tensor) -> Tensor:
        """[B, n, HE] as [B, H, n, E]; "raw_view" takes the numbers of a session as if they lay so."""
        b, n, size = x.shape
        if self.head_layout == "raw_view":
            return x.reshape(b, self.heads, n, size // self.heads)
        return x.view(b, n, self.heads, size // self.heads).transpose(1, 2)

    def pool_queries(self, log_a: Tensor, used: Tensor | None) -> Tensor:
        """(sum over queries of a^p)^(1/p), Equation 8: [B, H, L] from log a [B, H, M, L].

        In logarithms, because x^(1/p) has an infinite slope at 0. Queries not `used` [B, M] add nothing.
        """
        if used is not None:
            log_a = log_a.masked_fill(~used[:, None, :, None], -math.inf)
        if math.isinf(self.p):
            return log_a.amax(2).exp()
        return ((self.p * log_a).logsumexp(2) / self.p).exp()

    def values(self, h: Tensor, real: Tensor | None) -> Tensor:
        """What is weighed, [B, L, D]: the states h, or their map (only of slots `real` [B, L] if given)."""
        if not hasattr(self, "value"):
            return h
        return self.value(h) if real is None else torch.zeros_like(h).index_put((real,), self.value(h[real]))

    def pool_clicks(self, weights: Tensor, values: Tensor) -> Tensor:
        """s [B, HD] ("full") or [B, D]: values [B, L, D] weighed by [B, H, L], the heads side by side."""
        if self.head_layout == "full":
            return (weights @ values).flatten(1)
        by_head = values.view(*values.shape[:2], self.heads, -1)  # [B, L, H, E]
        return (weights.transpose(1, 2)[..., None] * by_head).sum(1).flatten(1)

    def combine(self, s: Tensor, last: Tensor) -> Tensor:
        """scale . W [s normalised; last click], Equation 4."""
        s = self.norm(s) if hasattr(self, "norm") else unit(s)
        z = self.transform(torch.cat([s, last], 1))
        return self.scale * (unit(z) if self.score_norm else z)


class _LogitsByLength(torch.autograd.Function):
    """Products of the queries [B, M, H, E] with the keys [C, H, E] of their session, in slots [B, H, M, L].

    The sessions are sorted by their lengths [B], the keys stand session by session; empty slots are zero.
    A product runs over the sessions of one length, so that nothing is multiplied or kept for an empty slot.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, lengths: Tensor, width: int) -> Tensor:
        logits = query.new_zeros(len(query), query.shape[2], query.shape[1], width)
        ctx.save_for_backward(query, key)
        ctx.runs = _runs(lengths)
        for n, sessions, clicks in ctx.runs:
            k = key[clicks].view(-1, n, *key.shape[1:])  # [b, n, H, E]
            logits[sessions, :, :, :n] = query[sessions].transpose(1, 2) @ k.permute(0, 2, 3, 1)
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key = ctx.saved_tensors
        d_query, d_key = torch.empty_like(query), torch.empty_like(key)
        for n, sessions, clicks in ctx.runs:
            g = grads[0][sessions, :, :, :n]  # [b, H, M, n]
            k, d_k = (x[clicks].view(-1, n, *key.shape[1:]) for x in (key, d_key))  # [b, n, H, E]
            d_query[sessions] = (g @ k.transpose(1, 2)).transpose(1, 2)
            d_k.copy_((g.transpose(2, 3) @ query[sessions].transpose(1, 2)).transpose(1, 2))
        return d_query, d_key, None, None


def _runs(lengths: Tensor) -> list[tuple[int, slice, slice]]:
    """(length, its sessions, their clicks) of each run of equal numbers in the sorted lengths [B]."""
    runs, session, click = [], 0, 0
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    for n, b in zip(values.tolist(), counts.tolist(), strict=True):
        runs.append((n, slice(session, session + b), slice(click, click + n * b)))
        session, click = session + b, click + n * b
    return runs


def rows(table: Tensor, index: Tensor) -> Tensor:
    """table[index] [..., D] for index [...] of any shape; its gradient adds rows up, where indexing would sort them."""
    return table.index_select(0, index.flatten()).view(*index.shape, table.shape[1])


def arange_like(like: Tensor) -> Tensor:
    """0, 1, ... for each row of a tensor."""
    return torch.arange(len(like), device=like.device)


# What a model that has this readout takes beside its own arguments, and hands on.
READOUT_OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(AttenMixerReadout).parameters.items()
    if name not in ("dim", "scale", "attend")
}
