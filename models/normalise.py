"""Rows of unit length: cheaply for the whole item table, plainly for anything small."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12  # keeps a row of zeros a row of zeros
ROWS_IN_CACHE = 4096  # rows that one CPU piece of `normalise_rows` handles: 4 MB at D = 256


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension."""
    return F.normalize(x, dim=-1, eps=EPS)


def normalise_rows(table: Tensor) -> Tensor:
    """The table [V, D] with rows of unit length.

    The same value and gradient as `unit`, in as few passes over the table as it takes: with h = E / |E| and
    the gradient g of h, dE = (g - h (h . g)) / |E|. On the CPU it goes piece by piece, so that every row
    travels from memory once for the forward and once for the backward pass. Differentiable once.
    """
    return _NormaliseRows.apply(table)  # type: ignore[no-untyped-call]


class _NormaliseRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        unit_rows, scale = torch.empty_like(table), table.new_empty(len(table), 1)
        for e, h, r in _pieces(table, unit_rows, scale):
            torch.linalg.vector_norm(e, dim=1, keepdim=True, out=r)
            r.clamp_(min=EPS).reciprocal_()
            torch.mul(e, r, out=h)
        ctx.save_for_backward(unit_rows, scale)
        return unit_rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        unit_rows, scale = ctx.saved_tensors
        out = torch.empty_like(unit_rows)
        for h, r, g, d in _pieces(unit_rows, scale, grads[0], out):
            along = torch.mul(h, g, out=d).sum(1, keepdim=True)  # h . g
            torch.addcmul(g, h, along, value=-1, out=d).mul_(r)
        return out


def _pieces(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The tensors cut alike along their rows, on the CPU to pieces that stay in its cache."""
    rows = ROWS_IN_CACHE if tensors[0].device.type == "cpu" else max(len(tensors[0]), 1)
    return zip(*(t.split(rows) for t in tensors), strict=True)
