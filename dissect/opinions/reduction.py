"""Bayesian model reduction: the evidence for each weight, in closed form, from a trained model alone.

A weight has the Gaussian prior p = N(0, v0) and the posterior q = N(m, v). How would the evidence change under another
prior p~ = N(0, r)? Bayes' rule gives it without training anything again,

    log p~(data) - log p(data) = log of the mean under q of p~(w) / p(w),

which is a Gaussian integral (Friston et al. 2016, NeuroImage 129; as a criterion for pruning Marković et al. 2023,
arXiv 2309.12095). With r -> 0 the weight is gone: the ratio is q(0) / p(0) (Savage and Dickey).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dissect.opinions.criteria import Scores, Weights


def log_evidence_ratio(mean: Tensor, variance: Tensor, prior: Tensor | float, reduced: float = 0.0) -> Tensor:
    """log p~(data) - log p(data) of each weight (nats): above 0, the data prefer the reduced prior N(0, reduced).

    mean, variance   of the posterior q
    prior            the variance v0 of the prior; q must be narrower than the prior is against the reduced one:
                     1 / variance + 1 / reduced > 1 / prior
    """
    P, P0 = 1 / variance, 1 / torch.as_tensor(prior, dtype=mean.dtype, device=mean.device)  # precisions
    if reduced == 0:
        return 0.5 * (P.log() - P0.log() - P * mean.square())
    after = P + 1 / reduced - P0  # of the reduced posterior, whose mean is P mean / after
    determinants = P.log() - math.log(reduced) - after.log() - P0.log()
    return 0.5 * (determinants - P * mean.square() + (P * mean).square() / after)


def reduction(weights: Weights, fisher: Mapping[str, Tensor], n: int, spread: Mapping[str, float]) -> Scores:
    """The evidence for each weight against its removal (nats): positive, the data want it.

    The posterior is Laplace's with a diagonal: around the trained weight, with precision n F + 1 / v0, F the diagonal
    Fisher of one of n training examples; the prior is the initialisation, v0 = `spread`^2 of each matrix.
    """
    return {name: evidence(weight.detach(), fisher[name], n, spread[name]) for name, weight in weights.items()}


def evidence(weight: Tensor, fisher: Tensor, n: int, spread: float) -> Tensor:
    """The same for one matrix: -log_evidence_ratio with the prior N(0, spread^2)."""
    return -log_evidence_ratio(weight, 1 / (n * fisher + spread**-2), spread**2)
