"""Shadows: beside each SparseVD matrix one that is useless by construction, at the same place.

What a useless matrix keeps depends on where it stands: on its inputs, on the size of its gradient, on its noise. A
shadow has the shape, initialisation and noise of its matrix, and is fed with the inputs of other rows of the batch, cut
off from the gradient and centred; what it makes is added to the product in training, and absent in evaluation. So it
runs, gets a gradient from data, and cannot help. Density means something only beside its shadow.

Its partners change at each step, so it cannot learn the accidents of the training set by heart, as a useless matrix
can: what it keeps is the least that chance keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd.layers import Conv1dVD, LinearVD, VariationalLayer, one_sample
from dissect.sparsevd.sparsifier import matrices_of, variational_layers

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
                    self.add_module(name.replace(".", "/"), shadow)

    @contextmanager
    def cast(self, model: nn.Module) -> Iterator[None]:
        """Within it, what the shadows make is added to the products of the model's matrices, in training.

        With noise = weight each shadow has one draw in it, as its matrix has in `one_sample`.
        """
        layers = [layer for _, layer in variational_layers(model)]
        for layer in layers:
            layer._shadow = partial(self._beside, layer)
        try:
            with one_sample(self):
                yield
        finally:
            for layer in layers:
                layer._shadow = None

    def _beside(self, layer: VariationalLayer, name: str, x: Tensor) -> tuple[VariationalLayer, Tensor]:
        """The shadow of matrix `name` of a layer, and the inputs of other rows, for inputs x."""
        shadow = self._of[id(layer.get_parameter(name))]
        return shadow, others(x.detach(), is_sequence=isinstance(shadow, Conv1dVD))


def others(x: Tensor, is_sequence: bool = False) -> Tensor:
    """The inputs [..., in] of other rows ([B, in, T] of other sequences), centred: a new draw at each call.

    Rows are rolled by a quarter to three quarters of their number: neighbours may belong to one session. The mean over
    the rows is taken away: it is the same for all, and through it a shadow could learn what does help. Fewer than
    FEWEST rows have no others, and give zeros.
    """
    rows = x if is_sequence and x.dim() == 3 else x[None] if is_sequence else x.reshape(-1, x.shape[-1])
    n = len(rows)
    if n < FEWEST:
        return torch.zeros_like(x)
    centred = rows - rows.mean((0, 2), keepdim=True) if is_sequence else rows - rows.mean(0)
    shift = int(torch.randint(n // 4, 3 * n // 4 + 1, ()))
    return centred.roll(shift, 0).view_as(x)


def _shadow_of(layer: VariationalLayer, theta: nn.Parameter) -> VariationalLayer:
    """A matrix like theta whose numbers are those of theta in another order, with the layer's kind of noise."""
    settings: dict[str, Any] = {"noise": layer.noise, "threshold": layer.threshold, "unit": layer.unit}
    if isinstance(layer, Conv1dVD):
        plain = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}
        size = layer.in_channels, layer.out_channels, layer.kernel_size[0]
        shadow: VariationalLayer = Conv1dVD(*size, bias=False, **plain, **settings)
    else:
        out, inputs = theta.shape
        shadow = LinearVD(inputs, out, bias=False, **settings)
    shadow.to(device=theta.device, dtype=theta.dtype).log_sigma2_start = layer.log_sigma2_start
    with torch.no_grad():
        numbers = theta.detach().flatten()
        shadow.get_parameter("weight").copy_(numbers[torch.randperm(len(numbers)).to(theta.device)].view_as(theta))
    shadow.reset_log_sigma2()
    return shadow
