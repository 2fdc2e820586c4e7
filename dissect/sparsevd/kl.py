"""The KL divergence of a factorised Gaussian weight posterior from its prior, summed over a matrix.

The posterior is q(w) = N(theta, sigma^2) for each weight, kept as theta and log_sigma2 = log sigma^2 of the
same shape; alpha = sigma^2 / theta^2 is derived and never stored. All divergences are in nats and are to be
minimised:

    loss = mean cross-entropy + beta / N * (sum of the KL over all weights), N the number of training examples

Source: Molchanov, Ashukha and Vetrov 2017, arXiv 1701.05369. Mind the sign: its equation 14 approximates
*minus* the KL, as a term of a bound to be maximised.

Everything is computed in single precision or, where the weights are double, in double; autocast is off
inside. Nothing is clamped: a clamp of log alpha would zero both gradients outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dissect.errors import unknown

PRIORS = ("log-uniform", "normal", "ard")

K1, K2, K3 = 0.63576, 1.87320, 1.48695  # arXiv 1701.05369, equation 14
SMALL, LARGE = 1 << 14, 1 << 20  # at most so many weights make a matrix small: on a CPU, on other devices
EPS = 1e-16  # beside theta^2: 0 gives NaN at theta = 0, 1e-8 would cap log alpha at log sigma^2 + 18.4


def log_alpha(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """log(sigma^2 / theta^2) of each weight, from `theta` and `log_sigma2`; finite where they are.

    Where a row or column shares one sigma^2 (log_sigma2 is [rows, 1] or [1, columns]), theta^2 is its mean over that
    row or column: all weights of a group have one alpha, and are kept or pruned together.
    """
    with torch.autocast(theta.device.type, enabled=False):
        theta, log_sigma2 = _at_least_single(theta), _at_least_single(log_sigma2)
        square = theta * theta
        if log_sigma2.shape != theta.shape:
            sizes = zip(log_sigma2.shape, theta.shape, strict=True)
            square = square.mean([i for i, (own, all_) in enumerate(sizes) if own != all_], keepdim=True)
        return (log_sigma2 - torch.log(square + EPS)).expand_as(theta)


def kept(log_alpha: Tensor, threshold: float) -> Tensor:
    """Which weights count as kept, bool of the shape of `log_alpha`: log alpha < threshold (a NaN is not kept).

    The one definition behind the masks of the layers, the record, plots and tables.
    """
    return log_alpha < threshold


def kept_count(theta: Tensor, log_sigma2: Tensor, threshold: float) -> Tensor:
    """How many weights of `theta` and `log_sigma2` are kept at a `threshold`: an integer scalar on their device."""
    return kept(log_alpha(theta, log_sigma2), threshold).sum()


def kl_log_uniform(log_alpha: Tensor) -> Tensor:
    """Per weight: from the log-uniform prior p(|w|) ~ 1 / |w|, by the approximation of arXiv 1701.05369.

    At most 0.0094 from the exact value. The prior is improper; the constant is such that alpha -> infinity
    gives 0.
    """
    return 0.5 * F.softplus(-log_alpha) + K1 * torch.sigmoid(-(K2 + K3 * log_alpha))


def kl_normal(theta: Tensor, log_sigma2: Tensor) -> Tensor:
    """Per weight: from the standard normal prior that the Atten-Mixer paper names below its equation 2."""
    return 0.5 * (log_sigma2.exp() + theta * theta - 1 - log_sigma2)


def kl_ard(log_alpha: Tensor) -> Tensor:
    """Per weight: from a normal prior with the best variance for it (Kharitonov et al., arXiv 1811.00596).

    For n weights of a group that share sigma^2, and a prior N(0, s^2) that they share too: the sum over the group is
    n log(s^2 / sigma^2) / 2 at the best s^2 = sigma^2 + mean theta^2, that is n times this at the group's alpha.
    """
    return 0.5 * F.softplus(-log_alpha)


def kl_per_weight(theta: Tensor, log_sigma2: Tensor, prior: str = "log-uniform") -> Tensor:
    """The KL of each weight from `prior`, of the shape of theta. Raises UsageError for a prior not in PRIORS."""
    with torch.autocast(theta.device.type, enabled=False):
        theta, log_sigma2 = _at_least_single(theta), _at_least_single(log_sigma2)
        if prior == "log-uniform":
            return kl_log_uniform(log_alpha(theta, log_sigma2))
        if prior == "normal":
            return kl_normal(theta, log_sigma2)
        if prior == "ard":
            return kl_ard(log_alpha(theta, log_sigma2))
    raise unknown("prior", prior, PRIORS)


def kl_divergence(theta: Tensor, log_sigma2: Tensor, prior: str = "log-uniform") -> Tensor:
    """The KL (nats, a sum) of `theta` and `log_sigma2` from `prior`. Raises UsageError for a prior not in PRIORS.

    For rows or columns that share sigma^2 that of the ARD prior is exact. The log-uniform one stands for its
    approximation at the group's alpha: the prior factorises over weights, so no group has an alpha by it.
    """
    if prior != "log-uniform" or log_sigma2.shape != theta.shape:
        return kl_per_weight(theta, log_sigma2, prior).sum()
    with torch.autocast(theta.device.type, enabled=False):
        total: Tensor = _SumLogUniform.apply(  # type: ignore[no-untyped-call]  # torch has no types for apply
            _at_least_single(theta), _at_least_single(log_sigma2)
        )
        return total


def sum_of_kl(pairs: Sequence[tuple[Tensor, Tensor]], prior: str = "log-uniform") -> Tensor:
    """The KL of several matrices (theta, log_sigma2) from `prior`, a scalar; zero without any."""
    if not pairs:
        return torch.zeros(())
    pairs = _small_joined(pairs) if prior == "log-uniform" else pairs
    return torch.stack([kl_divergence(theta, log_sigma2, prior) for theta, log_sigma2 in pairs]).sum()


def _small_joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same weights, with all small matrices in one: each call of a small operation costs more than its work."""
    apart: list[tuple[Tensor, Tensor]] = []
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
    for theta, log_sigma2 in pairs:
        is_small = theta.numel() <= (SMALL if theta.device.type == "cpu" else LARGE)
        if is_small and theta.shape == log_sigma2.shape:
            alike.setdefault((theta.device, theta.dtype), []).append((theta.flatten(), log_sigma2.flatten()))
        else:
            apart.append((theta, log_sigma2))
    return apart + [(torch.cat(thetas), torch.cat(sigmas)) for thetas, sigmas in (zip(*of) for of in alike.values())]


class _SumLogUniform(torch.autograd.Function):
    """kl_log_uniform summed over a matrix, with its gradient in closed form.

    This runs over every weight at every step: few passes over memory, and no graph. With a = log alpha and
    s = sigmoid(-(k2 + k3 a)):

        dKL/da = -sigmoid(-a) / 2 - k1 k3 s (1 - s)
        da/dlog_sigma2 = 1,  da/dtheta = -2 theta / (theta^2 + eps)
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, log_sigma2: Tensor) -> Tensor:
        square = (theta * theta).add_(EPS)
        minus_a = torch.log(square).sub_(log_sigma2)
        s = (minus_a * K3).sub_(K2).sigmoid_()
        total = 0.5 * F.softplus(minus_a).sum() + K1 * s.sum()
        if any(ctx.needs_input_grad):
            slope = minus_a.sigmoid_().mul_(-0.5).addcmul_(s, 1 - s, value=-K1 * K3)  # dKL/da
            ctx.save_for_backward(theta, square, slope)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        theta, square, slope = ctx.saved_tensors
        by_log_sigma2 = slope * grad
        by_theta = (by_log_sigma2 * theta).div_(square).mul_(-2)
        return by_theta, by_log_sigma2


def _at_least_single(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@lru_cache
def null_share(beta: float, threshold: float) -> float:
    """The share of useless weights that the log-uniform prior keeps at KL weight beta, however long a run trains.

    The data term of a useless weight is quadratic, and its estimate is z standard errors from 0, z ~ N(0, 1). For a
    given log alpha the best theta leaves beta KL(log alpha) + z^2 / 2 sigmoid(log alpha); the weight is kept if the
    minimum lies below the threshold, which is so from some |z| on (docs/method.md).
    """
    log_alpha = torch.linspace(-20, 30, 50_001, dtype=torch.float64)
    kl, noise = beta * kl_log_uniform(log_alpha), torch.sigmoid(log_alpha)

    def is_kept(z: float) -> bool:
        return bool(log_alpha[(kl + z * z / 2 * noise).argmin()] < threshold)

    low, high = 0.0, 20.0
    if not is_kept(high):
        return 0.0
    for _ in range(30):  # to the z from which it is kept
        middle = (low + high) / 2
        low, high = (low, middle) if is_kept(middle) else (middle, high)
    return math.erfc(high / math.sqrt(2))
