"""alpha-entmax: a softmax that can give weight 0 and has a learnable alpha (Peters et al., ACL 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.rows import Rows

STEPS = 8  # of Newton: 7 give 12 digits for many kinds of logits and up to 300 rows of an owner


def entmax(z: Tensor, alpha: Tensor, rows: Rows) -> Tensor:
    """Weights [n] over the rows of each owner from logits z [n]; alpha [owners] is above 1 and at most 2.

    p = exp_a(z - t), with the t of each owner that makes its p add up to 1. Here a = alpha - 1, and exp_a(x) is
    (1 + a x)^(1 / a) where that is a number, else 0: softmax as alpha tends to 1, sparsemax at alpha = 2. Newton's
    steps find t. The last of them has the gradient of a root, which is exact.
    """
    a = alpha - 1
    a_rows = rows.spread(a)

    def log_weights(t: Tensor) -> tuple[Tensor, Tensor]:
        """log exp_a(z - t), and where exp_a is not 0, each [n]."""
        x = a_rows * (z - rows.spread(t))
        some = ~(x <= -1)  # a NaN stays one, for whoever looks for what is read
        return torch.where(some, x, 0).log1p() / a_rows, some

    def total(log_p: Tensor, some: Tensor) -> Tensor:
        return rows.sum(log_p.exp() * some)

    with torch.no_grad():
        # The total^a is a norm, of order 1 / a, of numbers linear in t: convex. So steps from the left, where one p is
        # 1, never go too far. If all z are equal, or as alpha tends to 1, the first step is exact.
        t = z.new_full((rows.n_owners,), -torch.inf).scatter_reduce(0, rows.owner, z, "amax")
        for _ in range(STEPS):
            log_p, some = log_weights(t)
            f, slope = total(log_p, some), total((1 - a_rows) * log_p, some)  # of f, with the opposite sign
            t = t - f * torch.expm1(-a * f.log()) / (a * slope)
    log_p, some = log_weights(t)
    slope = total((1 - a_rows) * log_p, some).detach()
    log_p, some = log_weights(t + (total(log_p, some) - 1) / slope)
    return log_p.exp() * some
