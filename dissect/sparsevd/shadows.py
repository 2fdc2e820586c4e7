"""Shadows: beside each SparseVD matrix one that is useless by construction, at the same place.

What a useless matrix keeps depends on where it stands: on its inputs, on the size of its gradient, on its noise. A
shadow has the shape, initialisation and noise of its matrix, and is fed with the inputs of other rows of the batch, cut
off from the gradient and centred; what it makes is added to the product. So it runs, gets a gradient from data, and
cannot help. Density means something only beside its shadow.

Shadows are trained in a pass of their own through the model as it is at that step (`aside`), which teaches the model
nothing: it ends the same, bit for bit, with and without them.

The partners of a shadow change at each step, so it cannot memorise the training set, as a useless matrix can: what it
keeps is the least that chance keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd.layers import Conv1dVD, Conv2dVD, EmbeddingVD, LinearVD, VariationalLayer, one_sample
from dissect.sparsevd.probe import as_before, seed_torch
from dissect.sparsevd.sparsifier import matrices_of, variational_layers

CONVOLUTIONS = (Conv1dVD, Conv2dVD)
FEWEST = 4  # rows of a batch that can be rolled by a quarter of them


class Shadows(nn.Module):
    """A shadow of each matrix of a model; matrices that layers share have one.

    `names` are those of the matrices (named_variational), in the order of the shadows.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: list[str] = []
        self._of: dict[int, VariationalLayer] = {}  # by the identity of theta
        for layer_name, layer in variational_layers(model):
            for name, theta, _ in matrices_of(layer_name, layer):
                if id(theta) not in self._of:
                    self._of[id(theta)] = shadow = _shadow_of(layer, theta)
                    self.names.append(name)
                    key = name.replace(".", "/")
                    self.add_module(key + "/" * hasattr(self, key), shadow)  # a layer may be called `cast`

    @contextmanager
    def cast(self, model: nn.Module, draws: torch.Generator | None = None) -> Iterator[None]:
        """Within it, what the shadows make is added to the products of the model's matrices, in training.

        With noise = weight each shadow has one draw in it, made at once, as its matrix has in `one_sample`. The inputs
        of other rows are chosen by `draws`, if it is given: then the layers of the model draw what they would draw
        without shadows.
        """
        layers = [layer for _, layer in variational_layers(model)]
        for layer in layers:
            layer._shadow = partial(self._beside, layer, draws)
        try:
            with one_sample(self):
                for shadow in self._of.values():
                    if shadow.training and shadow.noise == "weight":
                        shadow._weight("weight")
                yield
        finally:
            for layer in layers:
                layer._shadow = None

    def _beside(
        self, layer: VariationalLayer, draws: torch.Generator | None, name: str, x: Tensor
    ) -> tuple[VariationalLayer, Tensor]:
        """The shadow of matrix `name` of a layer, and the inputs of other rows, for inputs x."""
        shadow = self._of[id(layer.get_parameter(name))]
        if isinstance(shadow, EmbeddingVD):  # its vectors are centred in place of the ids
            return shadow, _rolled(x.flatten(), draws).view_as(x)
        spatial = len(shadow.kernel_size) if isinstance(shadow, CONVOLUTIONS) else 0
        return shadow, others(x.detach(), spatial, draws)


@contextmanager
def aside(model: nn.Module, seed: int) -> Iterator[None]:
    """Within it, a pass through the model, forwards and backwards, leaves no trace in it: no gradients, and buffers and
    torch's random state are as before at its end. Random numbers within it come from `seed`, unless it is set again.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with as_before(model):
        seed_torch(seed, next(model.parameters(), torch.empty(0)).device)
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def others(x: Tensor, spatial: int = 0, draws: torch.Generator | None = None) -> Tensor:
    """The inputs [..., in] of other rows, centred: a new draw at each call, by `draws` if it is given.

    For a convolution over `spatial` dimensions, [B, in, ...] of other sequences or pictures.

    Rows are rolled by a quarter to three quarters of their number: neighbours may belong to one session. The mean over
    the rows is taken away: it is the same for all, and through it a shadow could learn what does help. Fewer than
    FEWEST rows have no others, and give zeros.
    """
    is_single = spatial and x.dim() == spatial + 1
    rows = x[None] if is_single else x if spatial else x.reshape(-1, x.shape[-1])
    if len(rows) < FEWEST:
        return torch.zeros_like(x)
    all_but_channels = (0, *range(2, 2 + spatial))
    return _rolled(rows - rows.mean(all_but_channels, keepdim=True), draws).view_as(x)


def _rolled(rows: Tensor, draws: torch.Generator | None) -> Tensor:
    n = len(rows)
    return rows.roll(int(torch.randint(max(n // 4, 1), max(3 * n // 4, 1) + 1, (), generator=draws)), 0)


def _shadow_of(layer: VariationalLayer, theta: nn.Parameter) -> VariationalLayer:
    """A matrix like theta whose numbers are those of theta in another order, with the layer's kind of noise."""
    settings: dict[str, Any] = {"noise": layer.noise, "threshold": layer.threshold, "unit": layer.unit}
    shadow: VariationalLayer
    if isinstance(layer, CONVOLUTIONS):
        plain = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
        size: Any = layer.in_channels, layer.out_channels, layer.kernel_size
        shadow = type(layer)(*size, bias=False, **plain, **settings)
    elif isinstance(layer, EmbeddingVD):
        shadow = EmbeddingVD(*theta.shape, padding_idx=layer.padding_idx, **settings)
    else:
        out, inputs = theta.shape
        shadow = LinearVD(inputs, out, bias=False, **settings)
    shadow.to(device=theta.device, dtype=theta.dtype).log_sigma2_start = layer.log_sigma2_start
    with torch.no_grad():
        numbers = theta.detach().flatten()
        shadow.get_parameter("weight").copy_(numbers[torch.randperm(len(numbers)).to(theta.device)].view_as(theta))
    shadow.reset_log_sigma2()
    return shadow
