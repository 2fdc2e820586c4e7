"""Vectors of unit length, or of a length that is limited."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12  # keeps a vector of zeros a vector of zeros


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension."""
    return F.normalize(x, dim=-1, eps=EPS)


def cut(x: Tensor, most: float) -> Tensor:
    """x [..., D] with the vectors that are longer than `most` cut to that length."""
    length = x.norm(dim=-1, keepdim=True)
    return x * torch.where(length > most, most / (length + 1e-7), 1.0)  # 1e-7: as max_norm of PyTorch's embeddings
