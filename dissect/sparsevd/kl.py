"""The KL divergence of a factorised Gaussian weight posterior from its prior, summed over a matrix.

q(w) = N(theta, sigma^2), alpha = sigma^2 / theta^2. All functions are to be minimised: the loss is the mean
cross-entropy plus beta / N times the sum over all weights. (Molchanov, Ashukha and Vetrov 2017,
arXiv 1701.05369, equation 14 gives *minus* this KL, as part of a bound to be maximised.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

PRIORS = ("log-uniform", "normal", "ard")

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # arXiv 1701.05369, equation 14
EPS = 1e-16  # under theta^2: large enough for a finite gradient at 0, small enough never to hold log alpha down


def log_alpha(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """log(sigma^2 / theta^2), of the shape and at least single precision of its inputs; never clamped."""
    theta, log_sigma2 = _wide(theta), _wide(log_sigma2)
    return log_sigma2 - torch.log(theta * theta + EPS)


def kl_log_uniform(log_alpha: Tensor) -> Tensor:
    """Per weight, nats: the approximation of arXiv 1701.05369 (maximal error 0.0094), 0 as alpha grows."""
    return 0.5 * F.softplus(-log_alpha) + K1 * torch.sigmoid(-(K2 + K3 * log_alpha))


def kl_normal(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """Per weight, nats: from the standard normal prior that the Atten-Mixer paper names below its equation 2."""
    return 0.5 * (log_sigma2.exp() + theta * theta - 1 - log_sigma2)


def kl_ard(log_alpha: Tensor) -> Tensor:
    """Per weight, nats: from a normal prior whose variance is chosen for each weight (arXiv 1811.00596)."""
    return 0.5 * F.softplus(-log_alpha)


class _SumKLLogUniform(torch.autograd.Function):
    """Sum of kl_log_uniform over a matrix with its gradient in closed form: few passes, one saved tensor each."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        square = theta * theta + EPS
        a = log_sigma2 - square.log()
        s = torch.sigmoid(-(K2 + K3 * a))
        total = 0.5 * F.softplus(-a).sum() + K1 * s.sum()
        if any(ctx.needs_input_grad):
            slope = torch.sigmoid(-a).mul_(-0.5)  # d KL / d log alpha, from the softplus
            slope -= s.mul_(1 - s).mul_(K1 * K3)
            ctx.save_for_backward(theta, square, slope)
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        theta, square, slope = ctx.saved_tensors
        slope = slope * grad
        return slope * theta * (-2 / square), slope  # d log alpha / d theta = -2 theta / theta^2


def kl_divergence(theta: Tensor, log_sigma2: Tensor, prior: str = "log-uniform") -> Tensor:
    """Sum over a matrix of the KL from `prior` (one of PRIORS), a scalar in at least single precision.

    Raises ValueError for another prior.
    """
    with torch.autocast(theta.device.type, enabled=False):
        theta, log_sigma2 = _wide(theta), _wide(log_sigma2)
        if prior == "log-uniform":
            total: Tensor = _SumKLLogUniform.apply(theta, log_sigma2)  # type: ignore[no-untyped-call]
            return total
        if prior == "normal":
            return kl_normal(theta, log_sigma2).sum()
        if prior == "ard":
            return kl_ard(log_alpha(theta, log_sigma2)).sum()
    raise ValueError(f"prior is one of {', '.join(PRIORS)}, not {prior!r}")


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
