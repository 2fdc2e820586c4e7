"""Vectors of unit length, as they are or less their mean, or of a length that is limited."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-12  # keeps a vector of zeros a vector of zeros
ROWS_IN_CACHE = 1024  # rows of an item table that several passes over them, on a CPU, find in its caches


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last dimension."""
    return F.normalize(x, dim=-1, eps=EPS)


def centred_unit(x: Tensor) -> Tensor:
    """(x - mean) / |x - mean| over the last dimension: the product of two such vectors is a correlation."""
    return unit(x - x.mean(-1, keepdim=True))


def centred_unit_rows(table: Tensor) -> Tensor:
    """`centred_unit` of a whole item table [V, D], in a third of the time. Differentiable once."""
    rows: Tensor = _CentredUnitRows.apply(table)  # type: ignore[no-untyped-call]
    return rows


def in_parts(*tensors: Tensor) -> Any:
    """Tensors of equally many rows in parts of equally many, side by side: on a CPU as many as its caches hold."""
    step = ROWS_IN_CACHE if tensors[0].device.type == "cpu" else max(len(tensors[0]), 1)
    return zip(*(x.split(step) for x in tensors), strict=True)


class _CentredUnitRows(torch.autograd.Function):
    """With u = (x - mean) / n, n = |x - mean|: dx = (g - mean of g - (g . u) u) / n, since u is centred."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:
        rows, lengths = torch.empty_like(table), table.new_empty(len(table), 1)
        for x, u, n in in_parts(table, rows, lengths):
            torch.sub(x, x.mean(1, keepdim=True), out=u)
            torch.linalg.vector_norm(u, dim=1, keepdim=True, out=n).clamp_(min=EPS)
            u.div_(n)
        ctx.save_for_backward(rows, lengths)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows, lengths = ctx.saved_tensors
        result = torch.empty_like(rows)
        for g, u, n, d in in_parts(grad, rows, lengths, result):
            torch.sub(g, g.mean(1, keepdim=True), out=d)
            d.addcmul_(u, torch.linalg.vecdot(g, u)[:, None], value=-1).div_(n)
        return result


def cut(x: Tensor, most: float) -> Tensor:
    """x [..., D] with the vectors that are longer than `most` cut to that length."""
    return x * cut_factor(x, most)


def cut_factor(x: Tensor, most: float, tolerance: float = 0.0) -> Tensor:
    """What `cut` multiplies x [..., D] by, [..., 1]; a vector longer than `most` by up to `tolerance` keeps 1."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(length > most + tolerance, most / (length + 1e-7), 1.0)  # 1e-7: as torch's max_norm
