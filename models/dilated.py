"""Dilated causal convolutions over the clicks: the residual blocks of NextItNet.

A convolution reads each click together with those d and 2d clicks before it; before the first click there are zeros.
It is one Linear over the three, side by side: this gives the numbers of a nn.Conv1d of dilation d, needs no padding,
and has a block of weights for each tap. C clicks, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.rows import Clicks

TAPS = ("far", "near", "now")  # 2d clicks back, d clicks back, the click itself


def taps(x: Tensor, clicks: Clicks, dilation: int) -> Tensor:
    """What a convolution reads at each click: [C, D] -> [C, 3D], blocks as in TAPS."""
    back = [F.pad(x, (0, 0, n, 0))[: len(x)] * (clicks.position >= n)[:, None] for n in (2 * dilation, dilation)]
    return torch.cat([*back, x], 1)


class ResidualBlock(nn.Module):
    """Two convolutions, of dilations d and 2d, beside the identity: block (b) of the paper."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.first, self.second = nn.Linear(3 * dim, dim), nn.Linear(3 * dim, dim)  # blocks of columns as in TAPS
        self.norm_first, self.norm_second = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)

    def forward(self, x: Tensor, clicks: Clicks) -> Tensor:
        """[C, D] -> [C, D]."""
        y = torch.relu(self.norm_first(self.first(taps(x, clicks, self.dilation))))
        return x + torch.relu(self.norm_second(self.second(taps(y, clicks, 2 * self.dilation))))
