"""Sparse Variational Dropout: the method, for any nn.Module."""

from dissect.sparsevd.density import measure
from dissect.sparsevd.kl import PRIORS, kl_divergence, log_alpha
from dissect.sparsevd.layers import NOISES, LinearVD, one_sample
from dissect.sparsevd.sparsify import densify, named_variational, sparsify, total_kl, unmasked

__all__ = [
    "NOISES", "PRIORS", "LinearVD", "densify", "kl_divergence", "log_alpha", "measure",
    "named_variational", "one_sample", "sparsify", "total_kl", "unmasked",
]
