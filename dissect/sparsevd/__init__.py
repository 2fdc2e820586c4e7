"""Sparse Variational Dropout (Molchanov, Ashukha and Vetrov 2017, arXiv 1701.05369), for any nn.Module.

sparsify(model)             exchange its layers
with one_sample(model):     a training step: loss + beta / N * total_kl(model)
measure(model)              how many weights are in use
densify(model)              back to dense layers, pruned
coverage(model, ...)        how many weights all of that speaks for
"""

from dissect.sparsevd.coverage import coverage, declared_for, in_words, is_partial, shares
from dissect.sparsevd.density import SIGNED_TAUS, TAUS, THRESHOLDS, measure
from dissect.sparsevd.kl import PRIORS, kept, kept_count, kl_divergence, log_alpha
from dissect.sparsevd.layers import (
    GRUVD,
    NOISES,
    Conv1dVD,
    GRUCellVD,
    LinearVD,
    VariationalLayer,
    one_sample,
    rows_belong_to,
)
from dissect.sparsevd.sparsify import (
    SparsifyReport,
    densify,
    named_variational,
    reset_log_sigma2,
    sparsify,
    total_kl,
    unmasked,
    variational_parameters,
)

__all__ = [
    "GRUVD",
    "NOISES",
    "PRIORS",
    "SIGNED_TAUS",
    "TAUS",
    "THRESHOLDS",
    "Conv1dVD",
    "GRUCellVD",
    "LinearVD",
    "SparsifyReport",
    "VariationalLayer",
    "coverage",
    "declared_for",
    "densify",
    "in_words",
    "is_partial",
    "kept",
    "kept_count",
    "kl_divergence",
    "log_alpha",
    "measure",
    "named_variational",
    "one_sample",
    "reset_log_sigma2",
    "rows_belong_to",
    "shares",
    "sparsify",
    "total_kl",
    "unmasked",
    "variational_parameters",
]
