"""The interface of a sparsifier for training, records and figures; only this folder knows that it is SparseVD.

    penalty(model)           its term in the loss
    scores(model)            how much each weight matters: it is kept if its score is above minus the threshold
    own_parameters(model)    the parameters that it adds

`sparsified` gives the weights concerned, and `layers_in` finds their layers in a state dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd.kl import log_alpha, sum_of_kl
from dissect.sparsevd.layers import VariationalLayer


def penalty(model: nn.Module, prior: str = "log-uniform") -> Tensor:
    """The KL (nats) of all SparseVD matrices from `prior`, a scalar; one that layers share counts once.

    loss = mean cross-entropy + beta / N * penalty(model), with N training examples; beta rises from 0 to the KL weight.
    0 for a model without SparseVD layers: what is left without a part may have none.
    """
    return sum_of_kl([(theta, log_sigma2) for _, theta, log_sigma2 in named_variational(model)], prior)


@torch.no_grad()
def scores(model: nn.Module) -> dict[str, Tensor]:
    """The score of each weight of a model, by matrix: -log alpha, which is twice the log of |theta| / sigma.

    A weight is kept if its score is above minus the threshold of log alpha.
    """
    return {name: -log_alpha(theta, log_sigma2) for name, theta, log_sigma2 in named_variational(model)}


def own_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every log sigma^2, each once: the parameters that the dense model does not have."""
    return [log_sigma2 for _, _, log_sigma2 in named_variational(model)]


def sparsified(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight matrices (theta) of a model that SparseVD covers, by name; weight decay must not touch them either."""
    return {name: theta for name, theta, _ in named_variational(model)}


def parameter_groups(*parts: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a model and its shadows in three groups for Adam, by `kind`.

    host        the first part's own: biases, and all that SparseVD does not cover
    penalised   the weights that the sparsifier penalises: no weight decay on them
    own         the parameters that it adds, without decay. The gradient of the KL there is at most 0.5 / N, below
                Adam's usual epsilon, hence a smaller one
    """
    penalised = [weight for part in parts for weight in sparsified(part).values()]
    return groups_of(parts[0], penalised, [parameter for part in parts for parameter in own_parameters(part)])


def groups_of(model: nn.Module, penalised: Sequence[nn.Parameter], own: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """The groups of `parameter_groups` for any sparsifier, given its weights and the parameters that it adds."""
    apart = {id(parameter) for parameter in (*penalised, *own)}
    host = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    return [
        {"params": host, "eps": 1e-8, "kind": "host"},
        {"params": [*penalised], "eps": 1e-8, "kind": "penalised"},
        {"params": [*own], "eps": 1e-12, "kind": "own"},
    ]


def layers_in(state: Iterable[str]) -> set[str]:
    """The names of the SparseVD layers that left their parameters in a state dict, given its keys."""
    return {layer for layer, _, own in (key.rpartition(".") for key in state) if "log_sigma2" in own}


def named_variational(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """(name, theta, log_sigma2) of each SparseVD matrix, each once, however many layers share it.

    The name is that of the layer, e.g. "edge_in", and for layers of several matrices that of the weight, e.g.
    "rnn.weight_ih"; a model that is itself a Linear is "weight".
    """
    seen = set()
    for layer_name, layer in variational_layers(model):
        for name, theta, log_sigma2 in matrices_of(layer_name, layer):
            if id(theta) not in seen:
                seen.add(id(theta))
                yield name, theta, log_sigma2


def variational_layers(model: nn.Module) -> list[tuple[str, VariationalLayer]]:
    """(name, layer) of each SparseVD layer, each once."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, VariationalLayer)]


def matrices_of(name: str, layer: VariationalLayer) -> Iterator[tuple[str, nn.Parameter, nn.Parameter]]:
    """(name, theta, log_sigma2) of each matrix of the layer of that name."""
    matrices = list(layer.variational())
    for theta_name, theta, log_sigma2 in matrices:
        yield f"{name}.{theta_name}" if name and len(matrices) > 1 else name or theta_name, theta, log_sigma2


def reset_log_sigma2(model: nn.Module) -> None:
    """Reset every log sigma^2 to its initial value for the present theta.

    Call it after a `reset_parameters` of the model that fills all parameters: SR-GNN's does, and with log sigma^2 in
    U(-1/sqrt(d), 1/sqrt(d)) no weight is kept. That of a SparseVD layer is safe.
    """
    for _, layer in variational_layers(model):
        layer.reset_log_sigma2()


@contextmanager
def unmasked(model: nn.Module) -> Iterator[None]:
    """Context manager: evaluation of the model uses all weights theta, also those above the threshold."""
    before = [(layer, layer.masked) for _, layer in variational_layers(model)]
    for layer, _ in before:
        layer.masked = False
    try:
        yield
    finally:
        for layer, masked in before:
            layer.masked = masked
