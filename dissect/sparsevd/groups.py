"""Named groups of weights: which weights of a model they are, what they keep, and the layers that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dissect.errors import UsageError, unknown
from dissect.sparsevd.kl import kept, log_alpha
from dissect.sparsevd.layers import VariationalLayer
from dissect.sparsevd.shadows import Shadows
from dissect.sparsevd.sparsifier import matrices_of, named_variational, variational_layers

Patterns = Mapping[str, str | Sequence[str]]
Masks = dict[str, Tensor]  # by the name of a matrix, which of its weights belong to a group


class Count(NamedTuple):
    """Weights of a group: how many are kept, of its shadows too (None without shadows), and how many there are."""

    kept: int
    size: int
    shadow_kept: int | None

    @property
    def density(self) -> float:
        return self.kept / self.size

    @property
    def shadow(self) -> float | None:
        return None if self.shadow_kept is None else self.shadow_kept / self.size


def blocks_of(model: nn.Module) -> dict[str, dict[str, tuple[slice, ...]]]:
    """By matrix, its named blocks as slices: gates, queries, keys and values, heads; one that layers share once."""
    found: dict[int, tuple[str, dict[str, tuple[slice, ...]]]] = {}
    for layer_name, layer in variational_layers(model):
        for (own, theta, _), (name, _, _) in zip(layer.variational(), matrices_of(layer_name, layer), strict=True):
            found.setdefault(id(theta), (name, layer.blocks(own)))
    return dict(found.values())


def masks_of(model: nn.Module, groups: Patterns | None) -> dict[str, Masks]:
    """By group, the weights that its patterns name; without groups each matrix is one.

    A pattern is a name with * and ?, of a matrix ("encoder.*") or of a block of one ("attention/q", "rnn.*/z").
    Raises UsageError for a pattern that names nothing.
    """
    thetas = {name: theta for name, theta, _ in named_variational(model)}
    blocks = {f"{name}/{block}": (name, part) for name, of in blocks_of(model).items() for block, part in of.items()}
    if groups is None:
        return {name: {name: torch.ones_like(theta, dtype=torch.bool)} for name, theta in thetas.items()}
    if not isinstance(groups, Mapping) or not groups:
        raise UsageError(
            f"`groups` is {groups!r}: it needs a name for each group, with the patterns of its matrices.",
            'For example: groups={"attention": ["encoder.*.self_attn*"]}',
        )
    result: dict[str, Masks] = {}
    for group, patterns in groups.items():
        masks: Masks = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            whole = [name for name in thetas if fnmatchcase(name, pattern)]
            parts = [name for name in blocks if fnmatchcase(name, pattern)]
            if not whole and not parts:
                raise unknown("matrix or block", pattern, [*thetas, *blocks])
            for name in whole:
                masks[name] = torch.ones_like(thetas[name], dtype=torch.bool)
            for block in parts:
                name, part = blocks[block]
                masks.setdefault(name, torch.zeros_like(thetas[name], dtype=torch.bool))[part] = True
        if not masks:
            raise UsageError(f"The group {group!r} has no pattern.", "Give the names of its matrices.")
        result[str(group)] = masks
    return result


@torch.no_grad()
def count(model: nn.Module, shadows: Shadows | None, masks: Masks, threshold: float) -> Count:
    """What the weights of a group keep at a threshold of log alpha, and what their shadows keep."""

    def number(part: nn.Module, of: Sequence[str]) -> int:
        named = zip(of, named_variational(part), strict=True)
        found = {name: (theta, own) for name, (_, theta, own) in named if name in masks}
        return sum(int((kept(log_alpha(*pair), threshold) & masks[name]).sum()) for name, pair in found.items())

    names = [name for name, _, _ in named_variational(model)]
    size = sum(int(mask.sum()) for mask in masks.values())
    return Count(number(model, names), size, None if shadows is None else number(shadows, shadows.names))


def layers_of(model: nn.Module, masks: Masks) -> tuple[dict[str, nn.Module], dict[nn.Module, list[str]]]:
    """The layers that hold the weights of a group, and of an attention, which of query, key and value they read."""
    names = {id(theta): name for name, theta, _ in named_variational(model)}
    layers: dict[str, nn.Module] = {}
    read: dict[nn.Module, list[str]] = {}
    for layer_name, layer in variational_layers(model):
        for own, theta, _ in layer.variational():
            mask = masks.get(names[id(theta)])
            if mask is None:
                continue
            layers[layer_name] = layer
            if isinstance(layer, nn.MultiheadAttention):
                inputs = dict(zip("qkv", ("query", "key", "value"), strict=True))
                here = [p for p, rows in _parts(layer, own).items() if bool(mask[rows].any())]
                read.setdefault(layer, []).extend(inputs[part] for part in here)
    return layers, {layer: parts for layer, parts in read.items() if len(parts) < 3}


def _parts(layer: VariationalLayer, own: str) -> dict[str, tuple[slice, ...]]:
    """Of a matrix of an attention, the rows that make queries (q), keys (k) and values (v)."""
    blocks = layer.blocks(own)
    return {part: blocks[part] for part in "qkv"} if own == "in_proj_weight" else {own[0]: (slice(None),)}


def is_all_that_reads(model: nn.Module, masks: Masks) -> bool:
    """Whether a group has every weight that multiplies the inputs of its layers: then swapping these tests the group.

    It does not for the weights of a state, for a gate or a head: their layer has other weights that lose as much.
    """
    names = {id(theta): name for name, theta, _ in named_variational(model)}
    for _, layer in variational_layers(model):
        of = {own: masks.get(names[id(theta)]) for own, theta, _ in layer.variational()}
        if all(mask is None for mask in of.values()):
            continue
        reading = [mask for own, mask in of.items() if not isinstance(layer, nn.RNNBase) or "_ih_l0" in own]
        if isinstance(layer, nn.MultiheadAttention):  # query, key and value are swapped apart
            found = [mask[rows] for own, mask in of.items() if mask is not None for rows in _parts(layer, own).values()]
            reading = [part for part in found if bool(part.any())]
        if not all(mask is not None and bool(mask.all()) for mask in reading):
            return False
    return True


@contextmanager
def zeroed(model: nn.Module, masks: Masks) -> Iterator[None]:
    """Within it the weights of a group are 0."""
    thetas = {name: theta for name, theta, _ in named_variational(model) if name in masks}
    before = {name: theta.detach().clone() for name, theta in thetas.items()}
    with torch.no_grad():
        for name, theta in thetas.items():
            theta.masked_fill_(masks[name], 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, theta in thetas.items():
                theta.copy_(before[name])
