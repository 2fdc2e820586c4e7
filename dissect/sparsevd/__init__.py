"""Sparse Variational Dropout (Molchanov, Ashukha and Vetrov 2017, arXiv 1701.05369), for any nn.Module.

sparsify(model)             replace its layers
with one_sample(model):     a training step: loss + beta / N * penalty(model)
density(model)              which share of each matrix is kept, as a table (counts for a record: measure)
scores(model)               the score of each weight
densify(model)              back to dense layers, pruned
coverage(model, ...)        how many weights that describes

dissect(model, loss, batches) does all of it: it trains with shadows, and says which parts are alive.

docs/sparsevd.md shows all of it on a small network.
"""

from dissect.sparsevd.attention import MultiheadAttentionVD
from dissect.sparsevd.coverage import coverage, declared_for, in_words, is_partial, shares
from dissect.sparsevd.density import SIGNED_TAUS, TAUS, THRESHOLDS, density, measure
from dissect.sparsevd.dissected import Dissected, dissect
from dissect.sparsevd.kl import PRIORS, kept, kept_count, kl_divergence, log_alpha
from dissect.sparsevd.layers import (
    NOISES,
    Conv1dVD,
    Conv2dVD,
    EmbeddingVD,
    LinearVD,
    VariationalLayer,
    one_sample,
)
from dissect.sparsevd.recurrent import GRUVD, LSTMVD, GRUCellVD, LSTMCellVD
from dissect.sparsevd.shadows import Shadows
from dissect.sparsevd.sparsifier import (
    layers_in,
    named_variational,
    own_parameters,
    penalty,
    reset_log_sigma2,
    scores,
    sparsified,
    unmasked,
)
from dissect.sparsevd.sparsify import SparsifyReport, densify, sparsify
from dissect.sparsevd.swapped import swapped

__all__ = [
    "GRUVD",
    "LSTMVD",
    "NOISES",
    "PRIORS",
    "SIGNED_TAUS",
    "TAUS",
    "THRESHOLDS",
    "Conv1dVD",
    "Conv2dVD",
    "Dissected",
    "EmbeddingVD",
    "GRUCellVD",
    "LSTMCellVD",
    "LinearVD",
    "MultiheadAttentionVD",
    "Shadows",
    "SparsifyReport",
    "VariationalLayer",
    "coverage",
    "declared_for",
    "densify",
    "density",
    "dissect",
    "in_words",
    "is_partial",
    "kept",
    "kept_count",
    "kl_divergence",
    "layers_in",
    "log_alpha",
    "measure",
    "named_variational",
    "one_sample",
    "own_parameters",
    "penalty",
    "reset_log_sigma2",
    "scores",
    "shares",
    "sparsified",
    "sparsify",
    "swapped",
    "unmasked",
]
