"""Putting SparseVD layers into a model, and taking them out again.

A layer keeps the Parameters of the dense one, so tied weights, optimisers that hold them and checkpoints keep working.
Layers are exchanged in the model, in place: a reference to a dense layer that is held elsewhere (in a plain list, in a
closure) keeps pointing to the dense layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from dissect.errors import UsageError, unknown
from dissect.sparsevd.attention import MultiheadAttentionVD, OutProjectionVD
from dissect.sparsevd.layers import (
    Conv1dVD,
    Conv2dVD,
    EmbeddingVD,
    LinearVD,
    VariationalLayer,
    one_sample,
    sigma_name,
)
from dissect.sparsevd.probe import still_called, watch
from dissect.sparsevd.recurrent import GRUVD, LSTMVD, GRUCellVD, LSTMCellVD
from dissect.sparsevd.sparsifier import matrices_of, variational_layers

Choice = Callable[[str, nn.Module], bool]
Where = Choice | Collection[str]

KINDS = (LinearVD, Conv1dVD, Conv2dVD, GRUCellVD, LSTMCellVD, GRUVD, LSTMVD, MultiheadAttentionVD, EmbeddingVD)
LAYERS: dict[type[nn.Module], type[VariationalLayer]] = {layer.dense_class: layer for layer in KINDS}
BY_NAME_ONLY = nn.Embedding  # a table is tied to the outputs of many models, and its noise is an approximation
# Modules that take the weights of layers in them, without calling these, where an attribute is true. SparseVD sets it
# to zero.
FAST_PATHS: dict[type[nn.Module], str] = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}
BEFORE = "{} before SparseVD"  # the name under which a module keeps what the attribute was
# Parameter names of PyTorch's own layers; pruning and weight norm leave other names.
OWN_PARAMETER = re.compile(
    r"(weight|bias)(_(ih|hh|hr)(_l\d+(_reverse)?)?)?|(in_proj|[qkv]_proj)_(weight|bias)|bias_[kv]"
)


@dataclass(frozen=True)
class SparsifyReport:
    """What became of each layer or weight matrix of a model.

    swapped   by the name of the matrix as in `sparsified`, its shape
    layers    the names of the layers that were exchanged
    left_out  the reason, by the name of the layer, or of a parameter that belongs to none
    """

    swapped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def sparsify(
    model: nn.Module,
    where: Where | None = None,
    *,
    noise: str = "lrt",
    threshold: float = 3.0,
    log_sigma2: float | None = None,
    unit: str = "weight",
    probe: Callable[[], object] | None = None,
    refuse: bool = True,
) -> SparsifyReport:
    """Put a SparseVD layer in place of each layer of a kind in LAYERS that `where` chooses, in place.

    where       names of layers, or of modules for all layers in them; or a function of (qualified name, module); None
                chooses all. An Embedding is exchanged only if it is named itself
    noise, threshold, log_sigma2, unit   see dissect.sparsevd.layers
    probe       runs the model once (without gradient; torch's random state, the mode and the buffers are restored).
                Layers that it does not call are left out: they would feel the KL alone and look useless. So are layers
                whose weights something else reads too.
    refuse      raise UsageError if nothing can be exchanged, and if `where` chooses a layer whose weights are read
                without its forward; False leaves it out

    The output projection of a MultiheadAttention is exchanged with it. The fast paths of nn.TransformerEncoder, which
    read weights past the layers in evaluation, are off until `densify`.

    A layer that appears at several places stays one layer. Layers that share a weight share its log_sigma2; if
    something else has the weight too (an Embedding, say), they are left out. Weight matrices (of two or more
    dimensions) that no layer covers are reported as well.

    Raises UsageError if the model itself is such a layer, if weights are in half precision or not finite, and if
    `where` names a layer that cannot be replaced, or if the probe still calls a layer that was exchanged, from a plain
    list, say. The model is then unchanged.
    """
    if type(model) in LAYERS:
        kind = type(model).__name__
        raise UsageError(
            f"The model is a single {kind}, which cannot be exchanged in place.",
            f"Take {LAYERS[type(model)].__name__}.from_dense(model), or wrap it in nn.Sequential.",
        )
    left_out: dict[str, str] = {}
    choice, names = _choice(model, where)
    is_strict = refuse and where is not None
    chosen = _choose(model, choice, names, left_out, is_strict)
    try:
        _set_fast_paths(model, lambda _: False)
        if probe is not None and chosen:
            _leave_out_unused(model, chosen, left_out, probe, is_strict)
        _leave_out_half_tied(model, chosen, left_out)
        _require_each(names, chosen, left_out)
        layers = _with_noise(chosen, noise=noise, threshold=threshold, log_sigma2=log_sigma2, unit=unit)
        exchange(model, {id(chosen[name]): layer for name, layer in layers.items()})
        if probe is not None and layers:
            _require_new_ones(model, chosen, layers, probe)
    finally:
        _set_fast_paths(model, lambda module: not variational_layers(module))
    report = _report(model, [*layers], left_out)
    if refuse:
        require_some(report, model)
    return report


def require_some(report: SparsifyReport, model: nn.Module) -> None:
    """Raises UsageError, with the reasons, if nothing of a model was exchanged."""
    if report.swapped:
        return
    if variational_layers(model):
        says = "The model has SparseVD layers already, and no other layer that was chosen can be replaced."
        raise UsageError(says, "To begin again, take them out first: densify(model)")
    reasons = "; ".join(f"{name}: {reason}" for name, reason in report.left_out.items())
    raise UsageError(
        f"The model has no weight matrix to dissect{': ' * bool(reasons)}{reasons}.",
        "docs/sparsevd.md lists the layers that can be dissected.",
    )


def _with_noise(chosen: dict[str, nn.Module], **settings: Any) -> dict[str, VariationalLayer]:
    """The SparseVD layers for the chosen ones; layers that share a weight share its log sigma^2."""
    layers: dict[str, VariationalLayer] = {}
    log_sigma2_of: dict[int, nn.Parameter] = {}  # by id of theta
    for name, module in chosen.items():
        try:
            layers[name] = LAYERS[type(module)].from_dense(module, **settings)
        except UsageError as error:
            raise UsageError(f"{name}: {error.message}", error.hint) from error
        for _, layer in variational_layers(layers[name]):  # an attention has another one in it
            for theta_name, theta, own in layer.variational():
                setattr(layer, sigma_name(theta_name), log_sigma2_of.setdefault(id(theta), own))
    return layers


def _report(model: nn.Module, layers: list[str], left_out: dict[str, str]) -> SparsifyReport:
    """What became of a model whose `layers` were exchanged; adds to left_out the matrices that belong to no layer."""
    report = SparsifyReport(layers=layers, left_out=left_out)
    covered = set()
    for layer_name, layer in variational_layers(model):
        for name, theta, own in matrices_of(layer_name, layer):
            covered |= {id(theta), id(own)}
            if nearest(layer_name, layers) is not None:
                report.swapped[name] = tuple(theta.shape)
    for name, parameter in model.named_parameters():
        is_dense_matrix = not is_lazy(parameter) and parameter.dim() >= 2 and id(parameter) not in covered
        if is_dense_matrix and nearest(name, left_out) is None:
            left_out[name] = _no_layer_for(model.get_submodule(name.rpartition(".")[0]))
    return report


def nearest(weight: str, names: Collection[str]) -> str | None:
    """The one of `names` that covers a weight: its own, its layer's, or that of a module around the layer."""
    while weight and weight not in names:
        weight = weight.rpartition(".")[0]
    return weight or None


def densify(model: nn.Module, prune: bool = True) -> nn.Module:
    """Put dense layers, with the same Parameters, back in place of the SparseVD layers; returns the model.

    `prune` sets the weights that are not kept to zero, so that the dense model computes the same as the SparseVD model
    in evaluation; without it theta stays. For a model that is itself a SparseVD layer the dense layer is a new module.
    """
    if isinstance(model, VariationalLayer):
        return model.to_dense(prune)
    exchange(model, {id(layer): layer.to_dense(prune) for _, layer in variational_layers(model)})
    _set_fast_paths(model, lambda _: True)
    return model


def _choice(model: nn.Module, where: Where | None) -> tuple[Choice | None, list[str]]:
    """`where` as a function, and the names that it consists of. Raises UsageError for what is neither."""
    if where is None or callable(where):
        return where, []
    names = [where] if isinstance(where, str) else [*where] if isinstance(where, Collection) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"`where` is {where!r}: neither names of layers nor a function of (name, module).",
            "Leave it out for all layers.",
        )
    there = {name for name, _ in model.named_modules() if name}
    for name in names:
        if name not in there:
            raise unknown("layer", name, there)
    return lambda name, _: nearest(name, names) is not None, names


def _require_each(names: list[str], chosen: Collection[str], left_out: dict[str, str]) -> None:
    """Raises UsageError if one of `names` leads to no layer in `chosen`, with the reason from `left_out`."""
    for name in names:
        if not any(nearest(layer, [name]) for layer in chosen):
            reasons = [reason for layer, reason in left_out.items() if nearest(layer, [name])]
            raise _refusal(name, "; ".join(dict.fromkeys(reasons)) or "it holds no layer with a weight matrix")


def _choose(
    model: nn.Module, where: Choice | None, names: Collection[str], left_out: dict[str, str], refuse: bool
) -> dict[str, nn.Module]:
    """The layers to exchange, by name, judged without running the model; the others go to left_out."""
    chosen: dict[str, nn.Module] = {}
    attention_of: dict[int, str] = {}  # by the id of an output projection
    for name, module in model.named_modules():
        if not _has_matrices(module) or (isinstance(module, BY_NAME_ONLY) and name not in names):
            continue
        if isinstance(module, nn.MultiheadAttention) and not isinstance(module, VariationalLayer):
            attention_of[id(module.out_proj)] = name
        is_projection = id(module) in attention_of
        if is_projection and attention_of[id(module)] in chosen:
            continue
        reason = "MultiheadAttention reads its weight, and never calls it" if is_projection else _unfit(module)
        if where is not None and not where(name, module):
            reason = reason or "not chosen"
        elif refuse and is_projection:
            raise _refusal(name, f"{reason}; choose {attention_of[id(module)]}")
        if reason:
            left_out[name] = reason
        else:
            chosen[name] = module
    return chosen


def _leave_out_unused(
    model: nn.Module,
    chosen: dict[str, nn.Module],
    left_out: dict[str, str],
    probe: Callable[[], object],
    refuse: bool,
) -> None:
    """Remove layers that the probe does not call, or whose weights others read (`refuse` raises)."""
    ran, read_by = watch(model, chosen, probe)
    for name in [*chosen]:
        if name in read_by:
            left_out[name] = f"{read_by[name]} reads its weight without calling its forward"
            if refuse:
                raise _refusal(name, left_out[name])
        elif name not in ran:
            left_out[name] = "never ran in the probe"
        if name in left_out:
            del chosen[name]


def _require_new_ones(
    model: nn.Module, chosen: dict[str, nn.Module], layers: dict[str, VariationalLayer], probe: Callable[[], object]
) -> None:
    """Raises UsageError, and undoes the exchange, if the probe still calls layers that were exchanged."""
    with one_sample(model):
        called = still_called(model, chosen, probe)
    if called:
        exchange(model, {id(layer): chosen[name] for name, layer in layers.items()})
        raise UsageError(
            f"{', '.join(called)}: the model calls this by a reference that it does not register (a plain list?).",
            "Keep layers in attributes, in nn.ModuleList or in nn.ModuleDict, and call them from there.",
        )


def _refusal(name: str, reason: str) -> UsageError:
    return UsageError(f"{name} cannot be replaced by a SparseVD layer: {reason}.", "Leave it out of `where`.")


def _has_matrices(module: nn.Module) -> bool:
    """Whether this is a layer that could be exchanged, or looks like one."""
    return isinstance(module, (*LAYERS, nn.RNNBase, nn.RNNCellBase, nn.modules.conv._ConvNd))


def _unfit(module: nn.Module) -> str:
    """Why a layer cannot be exchanged, looking at it alone; empty if it can."""
    kind = type(module).__name__
    if isinstance(module, VariationalLayer):
        return "already a SparseVD layer"
    parts = [module, *module.children()]  # an attention has its output projection
    if any(map(is_lazy, module.parameters())):
        return f"{kind} has no sizes yet; run a batch through the model first"
    if any(map(is_parametrized, parts)):
        return "its weight is computed from other parameters"
    if type(module) not in LAYERS:
        known = [cls.__name__ for cls in LAYERS if isinstance(module, cls)]
        if known:
            return f"{kind} is a class derived from {known[0]}, which may compute something else"
        return f"no SparseVD layer for {kind}"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    if isinstance(module, nn.MultiheadAttention) and type(module.out_proj) is not OutProjectionVD.dense_class:
        return f"its output projection is a {type(module.out_proj).__name__}"
    own = {name: each for part in parts for name, each in part._parameters.items() if each is not None}
    if not all(map(OWN_PARAMETER.fullmatch, own)) or not any("weight" in name for name in own):
        return "its weight is computed from other parameters"
    if not all(each.numel() for each in own.values()):
        return "it has a matrix without a single weight"
    return ""


def _no_layer_for(owner: nn.Module) -> str:
    """Why a weight matrix that belongs to `owner` itself stays dense."""
    if isinstance(owner, BY_NAME_ONLY):
        return f"an {type(owner).__name__}, which is exchanged only if it is named"
    return f"a parameter of {type(owner).__name__}, for which there is no SparseVD layer"


def _set_fast_paths(model: nn.Module, is_on: Callable[[nn.Module], bool]) -> None:
    """Switch the FAST_PATHS of modules off, or back to what they were."""
    for module in model.modules():
        for kind, attribute in FAST_PATHS.items():
            if isinstance(module, kind):
                before = BEFORE.format(attribute)
                if not is_on(module):
                    module.__dict__.setdefault(before, getattr(module, attribute, 0))
                    setattr(module, attribute, 0)
                elif before in module.__dict__:
                    setattr(module, attribute, module.__dict__.pop(before))


def _leave_out_half_tied(model: nn.Module, chosen: dict[str, nn.Module], left_out: dict[str, str]) -> None:
    """Take layers out of `chosen` whose weight also belongs to something that is not in it."""
    places: dict[int, list[tuple[str, int, bool]]] = {}  # by id of a parameter: its names, owners, is it a weight there
    for owner_name, owner in model.named_modules():
        for name, parameter in owner._parameters.items():
            place = (f"{owner_name}.{name}".lstrip("."), id(owner), "weight" in name)
            places.setdefault(id(parameter), []).append(place)
    again = True
    while again:  # a layer that is left out may be tied to another one
        again = False
        swapped = {id(part) for module in chosen.values() for part in module.modules()}
        for layer, module in [*chosen.items()]:
            weights = [id(parameter) for name, parameter in module.named_parameters() if "weight" in name]
            also = [place for weight in weights for place in places[weight]]
            dense = [name for name, owner, is_weight in also if owner not in swapped or not is_weight]
            if dense:
                left_out[layer] = f"its weight is also {dense[0]}, which stays dense"
                del chosen[layer]
                again = True


def exchange(model: nn.Module, replacements: Mapping[int, nn.Module]) -> None:
    """Put replacements[id(child)] in place of each child, wherever it appears."""
    places = [
        (parent, attribute, child)
        for parent in model.modules()
        for attribute, child in parent._modules.items()
        if child is not None and id(child) in replacements
    ]
    for parent, attribute, child in places:
        parent._modules[attribute] = replacements[id(child)]
