"""L0 gates (Louizos, Welling and Kingma 2018, arXiv 1712.01312), a second sparsifier beside SparseVD.

Each weight is theta z with a gate z of the hard concrete distribution: with u uniform on (0, 1),

    s = sigmoid((log u - log(1 - u) + log alpha) / beta),   z = min(1, max(0, s (zeta - gamma) + gamma))    (eq. 10, 11)

so that z is exactly 0 and exactly 1 with some probability, and log alpha has a gradient in between. The penalty is the
expected number of gates that are not 0,

    P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))                                                 (eq. 12)

and in evaluation z = min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma)) (eq. 13). The paper gates whole units;
here every weight has a gate, as SparseVD judges every weight.

The functions are those of dissect/sparsevd/sparsifier.py. Gates are parametrisations of torch: any layer can have them.
A step that reads a weight twice needs `torch.nn.utils.parametrize.cached()`, or it draws twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dissect.opinions.matrices import matrices, only_weight, place_of

GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3  # section 4.1 of the paper
START = math.log(0.9 / 0.1)  # log alpha: a gate that is off with probability 0.1 before it is stretched
CLOSED = math.log(-GAMMA / ZETA)  # log alpha up to which the gate of an evaluation is 0
EDGE = 1e-6  # u stays this far from 0 and 1


class Gate(nn.Module):
    """The gates of a matrix, a parametrisation: theta -> theta z, drawn anew at each call in training."""

    def __init__(self, like: Tensor, start: float = START) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full_like(like, start))

    def forward(self, theta: Tensor) -> Tensor:
        if not self.training:
            return theta * stretched(torch.sigmoid(self.log_alpha))
        u = torch.empty_like(theta).uniform_(EDGE, 1 - EDGE)
        return theta * gates(self.log_alpha, u)


def gates(log_alpha: Tensor, u: Tensor) -> Tensor:
    """The gates z for uniform draws u of the same shape."""
    return stretched(torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / BETA))


def stretched(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0) of each gate."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def gate(model: nn.Module, names: Iterable[str] | None = None, start: float = START) -> list[str]:
    """Put gates at the matrices `names` of a model, or at all of `matrices`, in place; returns their names."""
    found = matrices(model, None if names is None else list(names))
    for name, weight in found.items():
        layer, attribute = place_of(model, name)
        parametrize.register_parametrization(layer, attribute, Gate(weight.detach(), start))
    return list(found)


def penalty(model: nn.Module) -> Tensor:
    """The expected number of weights that are not 0, a scalar: loss = mean cross-entropy + weight / N * penalty."""
    found = [open_probability(each.log_alpha).sum() for _, _, each in named_gates(model)]
    return torch.stack(found).sum() if found else torch.zeros(())


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, Tensor]:
    """The score of each weight, by the name of its matrix: log alpha above where a gate closes. Kept above 0."""
    return {name: each.log_alpha - CLOSED for name, _, each in named_gates(model)}


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every log alpha: the parameters that the dense model does not have."""
    return [each.log_alpha for _, _, each in named_gates(model)]


def sparsified(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights theta under the gates, by the names of their matrices."""
    return {name: theta for name, theta, _ in named_gates(model)}


def named_gates(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Gate]]:
    """(name of the matrix, theta, its gates) of each."""
    for layer_name, layer in model.named_modules():
        if not parametrize.is_parametrized(layer):
            continue
        gated = {name: own for name, own in layer.parametrizations.items() if isinstance(own[0], Gate)}
        for attribute, own in gated.items():
            single = attribute == only_weight(layer) and layer_name
            yield (layer_name if single else f"{layer_name}.{attribute}".strip(".")), own.original, own[0]
