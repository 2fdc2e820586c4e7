"""What the readouts of Atten-Mixer, the paper's and the released, share: at level l they ask with the last l clicks.

B sessions, K levels, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.base import Matrix
from models.limits import MOST_LAYERS, require, require_positive, require_scale, require_whole

LEVELS = 7


def level_maps(dim: int, levels: int, concat: bool, bias: bool = False) -> nn.ModuleList:
    """W_l of each level, from the sum of its clicks, or with `concat` from their concatenation."""
    widths = [dim * level if concat else dim for level in range(1, levels + 1)]
    return nn.ModuleList(nn.Linear(width, dim, bias=bias) for width in widths)


def level_matrices(levels: int, concat: bool) -> dict[str, Matrix]:
    """The declaration of these maps in a module that calls them `query`; blocks are clicks, by their age."""
    ages = [tuple(f"last{age}" for age in range(level + 1)) if concat else () for level in range(levels)]
    return {f"query.{level}": Matrix("attention", "readout", cols=cols) for level, cols in enumerate(ages)}


def level_queries(maps: nn.ModuleList, recent: Tensor, concat: bool) -> Tensor:
    """Q_l of each level, [B, K, D], from the last K clicks [B, K, D], latest first: Equation 6."""
    if concat:
        groups = [recent[:, : level + 1].flatten(1) for level in range(len(maps))]
    else:
        groups = list(recent.cumsum(1).unbind(1))  # u_1 .. u_K [B, D]
    return torch.stack([W(group) for W, group in zip(maps, groups, strict=True)], 1)


def pooled(log_a: Tensor, p: float) -> Tensor:
    """(sum of a^p)^(1/p) over the third dimension of log a [., ., M, ...]: Equation 8.

    In logarithms, because x^(1/p) has an infinite slope at 0.
    """
    if math.isinf(p):
        return log_a.amax(2).exp()
    return ((p * log_a).logsumexp(2) / p).exp()


def require_numbers(levels: int, heads: int, p: float, scale: float, attention_scale: float | None) -> None:
    """Raises ValueError for numbers that no readout can have."""
    require_whole(1, MOST_LAYERS, levels=levels)
    require_whole(1, heads=heads)
    require("at least 1", lambda x: x >= 1, p=p)  # infinity too
    require_scale(scale=scale)
    if attention_scale is not None:
        require_positive(attention_scale=attention_scale)


def require_levels(levels: int, longest: int) -> None:
    """Raises ValueError for more levels than the longest prefix has clicks; the default is always allowed."""
    if levels > max(longest, LEVELS):
        raise ValueError(
            f"levels={levels} needs prefixes of at least that many clicks, and the longest prefix has {longest}: "
            f"use levels={longest} or less"
        )
