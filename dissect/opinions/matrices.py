"""The weight matrices of a model by the names that SparseVD gives them, whether or not it has SparseVD layers."""

from __future__ import annotations

import copy

from torch import nn

from dissect.errors import UsageError
from dissect.sparsevd import sparsified, sparsify


def matrices(model: nn.Module, chosen: list[str] | None = None) -> dict[str, nn.Parameter]:
    """Each matrix that `sparsify` would cover, or has covered: its parameter by its name; or only the `chosen` ones.

    Raises UsageError for a model without a matrix, and for a chosen name that the model lacks.
    """
    found = dict(sparsified(model))
    if not found:
        parameters = dict(model.named_parameters())
        names = sparsify(copy.deepcopy(model), refuse=False).swapped
        found = {name: parameters[_parameter_of(model, name)] for name in names}
    if chosen is not None:
        if lacking := [name for name in chosen if name not in found]:
            raise UsageError(f"The model has no matrix {lacking[0]!r}.", f"It has: {', '.join(found) or 'none'}.")
        found = {name: found[name] for name in chosen}
    if not found:
        raise UsageError("The model has no weight matrix to judge: docs/sparsevd.md lists the layers.")
    return found


def place_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """(layer, attribute) of a matrix by its name: that of its layer, or of a weight of it."""
    layer, _, attribute = _parameter_of(model, name).rpartition(".")
    return model.get_submodule(layer), attribute


def only_weight(layer: nn.Module) -> str:
    """The attribute of the matrix that has the name of its layer."""
    return "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"


def _parameter_of(model: nn.Module, name: str) -> str:
    layer = dict(model.named_modules()).get(name)
    return name if layer is None else f"{name}.{only_weight(layer)}"
