"""Layers with a Gaussian posterior over each weight, in place of PyTorch's own.

Each keeps the dense layer's parameters (`weight` is theta, the mean) and adds `log_sigma2` of the same shape.
Biases stay deterministic and never enter a variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dissect.sparsevd.kl import log_alpha

NOISES = ("lrt", "lrt_shared", "weight")
VARIANCE_EPS = 1e-8  # under the square root: finite gradient for an input of zeros, at the price of a std of 1e-4


def kept(theta: Tensor, log_sigma2: Tensor, threshold: float) -> Tensor:
    """Which weights count as kept, bool: log alpha < threshold. The one definition for masks, logs and plots."""
    return log_alpha(theta, log_sigma2) < threshold


def initial_log_sigma2(theta: Tensor) -> float:
    """log Var(theta) - 4, so that every matrix starts at the same density (0.983 for uniform weights)."""
    variance = float(theta.detach().float().var(unbiased=False)) if theta.numel() > 1 else 0.0
    return (torch.tensor(variance).log().item() if variance > 0 else -6.0) - 4.0


class LinearVD(nn.Linear):
    """A Linear whose weights are N(theta, exp(log_sigma2)).

    noise  "lrt": each row of the output gets its own noise, of the exact marginal variance (arXiv 1506.02557);
           "lrt_shared": rows of a session [B, T, out] share it over T; "weight": one W for all rows.
    In evaluation there is no noise, and weights with log alpha >= threshold are zero (while `masked`).
    """

    log_sigma2: nn.Parameter

    @classmethod
    def from_dense(cls, dense: nn.Linear, *, noise: str, threshold: float, log_sigma2: float | None = None) -> Self:
        """The same layer with noise: shares its Parameters, keeps device, training flag and hooks."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.__dict__.update({k: v for k, v in dense.__dict__.items() if k not in ("_parameters",)})
        layer._parameters = dict(dense._parameters)
        start = initial_log_sigma2(dense.weight) if log_sigma2 is None else log_sigma2
        layer.log_sigma2 = nn.Parameter(torch.full_like(dense.weight, start))
        layer.noise, layer.threshold, layer.masked, layer._sample = noise, threshold, True, None
        return layer

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            weight = self.weight * kept(self.weight, self.log_sigma2, self.threshold) if self.masked else self.weight
            return F.linear(x, weight, self.bias)
        if self.noise == "weight":
            return F.linear(x, self.sampled(), self.bias)
        mean = F.linear(x, self.weight, self.bias)
        variance = F.linear(x * x, self.log_sigma2.exp())
        shape = (*mean.shape[:-2], 1, mean.shape[-1]) if self.noise == "lrt_shared" and mean.dim() > 2 else mean.shape
        return mean + (variance + VARIANCE_EPS).sqrt() * torch.randn(shape, dtype=mean.dtype, device=mean.device)

    def sampled(self) -> Tensor:
        """One draw of W; the same draw inside `one_sample`."""
        if self._sample is None or not _KEEP_SAMPLES[-1]:
            self._sample = self.weight + (0.5 * self.log_sigma2).exp() * torch.randn_like(self.weight)
        return self._sample

    def variational(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        yield "", self.weight, self.log_sigma2


_KEEP_SAMPLES = [False]


@contextmanager
def one_sample(model: nn.Module) -> Iterator[None]:
    """Within it, a layer with noise "weight" draws once, however often it is called."""
    _KEEP_SAMPLES.append(True)
    try:
        yield
    finally:
        _KEEP_SAMPLES.pop()
        for module in model.modules():
            if isinstance(module, LinearVD):
                module._sample = None
