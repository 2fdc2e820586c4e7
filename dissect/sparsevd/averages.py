"""Averaged parameters: the plain mean of all parameters over the last part of a training.

At a constant rate Adam moves a useless weight about as far as the rate at each step, which keeps it alive; the mean
over many steps stands still. Densities, masks, evaluations and the reported weights are the means once there are any.

The running statistics of batch norm belong to the weights of the steps, so they are taken again for the means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dissect.sparsevd.layers import one_sample
from dissect.sparsevd.probe import as_before

EVERY = 5  # steps between two sets of parameters that are averaged
NORMS = nn.modules.batchnorm._BatchNorm
BATCHES = 50  # over which their statistics are taken again


class Averages:
    """The means of the parameters of some modules, and of how many steps; and the statistics of batch norm for them."""

    def __init__(self, **modules: nn.Module | None) -> None:
        named = [(part, module) for part, module in modules.items() if module is not None]
        self.parameters = {
            f"{part}.{name}": p
            for part, module in named
            for name, p in module.named_parameters()
            if p.is_floating_point() or p.is_complex()  # whole numbers have no mean, and do not train
        }
        self.statistics = {
            f"{part}.{at}.{name}": buffer
            for part, module in named
            for at, norm in module.named_modules()
            if isinstance(norm, NORMS)
            for name, buffer in norm.named_buffers()
        }
        self.means: dict[str, Tensor] = {}  # the statistics too, once `take_statistics` has
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take the present parameters into the means."""
        self.count += 1
        for name, parameter in self.parameters.items():
            if self.count == 1:
                self.means[name] = parameter.detach().clone()
            else:
                self.means[name].lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def take_statistics(self, model: nn.Module, run: Callable[[Any], object], batches: Iterable[Any]) -> None:
        """Take the statistics of the model's batch norm over some batches, with the means as they are evaluated.

        `run` runs the model on a batch, masked, without noise, shadows or dropout: the plain mean over the batches.
        Does nothing without means, and for norms that the model keeps in evaluation mode or does not call. The model
        stays as it was.
        """
        norms = [module for module in model.modules() if isinstance(module, NORMS) and module.training]
        if not (norms and self.means and self.statistics):
            return
        momenta = [norm.momentum for norm in norms]
        with self.in_place(), as_before(model), one_sample(model):
            model.eval()
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean
            try:
                for batch in batches:
                    run(batch)
            finally:
                for norm, momentum in zip(norms, momenta, strict=True):
                    norm.momentum = momentum
            idle = {id(own) for norm in norms if not norm.num_batches_tracked for own in norm.buffers()}
            taken = {name: own.clone() for name, own in self.statistics.items() if id(own) not in idle}
        self.means.update(taken)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the parameters are the means, where there are any."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Put the means in the place of the parameters, and these in that of the means."""
        for name, mean in self.means.items():
            own = self._own(name)
            self.means[name], own.data = own.data, mean

    def _own(self, name: str) -> Tensor:
        """The parameter or statistic of that name."""
        return self.parameters[name] if name in self.parameters else self.statistics[name]

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as tensors and numbers."""
        return {"count": self.count, "means": self.means}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a state back. Raises KeyError where it is of other parameters."""
        self.count = saved["count"]
        self.means = {name: mean.to(self._own(name).device) for name, mean in saved["means"].items()}


def is_averaged(step: int, steps: int, share: float) -> bool:
    """Whether the parameters after `step` of `steps` belong to the mean over the last `share` of them."""
    return bool(share) and step > steps - round(share * steps) and (steps - step) % EVERY == 0
