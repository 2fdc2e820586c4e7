"""Vectors of unit length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12  # keeps a vector of zeros a vector of zeros


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension."""
    return F.normalize(x, dim=-1, eps=EPS)
