"""Second opinions: what other criteria say of the weights that SparseVD judges, for any nn.Module.

matrices(model)                       the weight matrices on trial, by the names that SparseVD gives them
magnitude, taylor, fisher             a score of each weight
reduction                             Bayesian model reduction: the evidence for each weight
l0                                    L0 gates, a second sparsifier behind the same four functions as SparseVD
ablated, mean_inputs                  the model with a matrix at zero, at its mean, or with another row's inputs
pruned                                the model with the best share of its weights by a score

`loss(model, batch)` is a scalar everywhere, the mean over the examples of the batch. docs/opinions.md tells which
question each of them answers.
"""

from dissect.opinions import l0
from dissect.opinions.ablation import KINDS, ablated, mean_inputs
from dissect.opinions.criteria import fisher, magnitude, pruned, taylor
from dissect.opinions.matrices import matrices
from dissect.opinions.reduction import evidence, log_evidence_ratio, reduction

__all__ = [
    "KINDS",
    "ablated",
    "evidence",
    "fisher",
    "l0",
    "log_evidence_ratio",
    "magnitude",
    "matrices",
    "mean_inputs",
    "pruned",
    "reduction",
    "taylor",
]
