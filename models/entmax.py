"""alpha-entmax: a softmax that can give weight 0 and has a learnable alpha (Peters et al., ACL 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.rows import Rows


def entmax(z: Tensor, alpha: Tensor, rows: Rows) -> Tensor:
    """Weights [n] over the rows of each owner from logits z [n]; alpha [owners] is above 1 and at most 2.

    p = exp_a(z - t), with the t of each owner that makes its p add up to 1. Here a = alpha - 1, and exp_a(x) is
    (1 + a x)^(1 / a) where that is a number, else 0: softmax as alpha tends to 1, sparsemax at alpha = 2. A bisection
    finds t. The Newton step from there adds the last digits, and the gradient of a root, which is exact.
    """
    a = alpha - 1
    a_rows, count = rows.spread(a), rows.count.to(z.dtype)

    def log_weights(t: Tensor) -> tuple[Tensor, Tensor]:
        """log exp_a(z - t), and where exp_a is not 0, each [n]."""
        x = a_rows * (z - rows.spread(t))
        return torch.where(x > -1, x, 0).log1p() / a_rows, x > -1

    def total(log_p: Tensor, some: Tensor) -> Tensor:
        return rows.sum(log_p.exp() * some)

    with torch.no_grad():
        # At the largest z one of the p is 1, so they add up to 1 or more; at t + width the largest is 1 / n: 1 or less.
        t = z.new_full((rows.n_owners,), -torch.inf).scatter_reduce(0, rows.owner, z, "amax")
        width = -torch.expm1(-a * count.log()) / a
        for _ in range(torch.finfo(z.dtype).bits - 8):
            width = width / 2
            t = torch.where(total(*log_weights(t + width)) >= 1, t + width, t)
    log_p, some = log_weights(t)
    slope = total((1 - a_rows) * log_p, some).detach()  # of the sum, with the opposite sign
    log_p, some = log_weights(t + (total(log_p, some) - 1) / slope)
    return log_p.exp() * some
