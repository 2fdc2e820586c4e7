"""Averaged parameters: the plain mean of all parameters over the last part of a run.

At a constant rate Adam moves a useless weight about as far as the rate at each step, which keeps it alive; the mean
over many steps stands still. Densities, masks, evaluations and the reported weights are the means once there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dissect.runs.config import Config

EVERY = 5  # steps between two sets of parameters that are averaged
NORMS = nn.modules.batchnorm._BatchNorm
BATCHES = 50  # by which the statistics of batch norm are taken again, for the averaged weights


class Averages:
    """The means of the parameters of some modules, and of how many steps."""

    def __init__(self, **modules: nn.Module | None) -> None:
        self.parameters = {
            f"{part}.{name}": parameter
            for part, module in modules.items()
            if module is not None
            for name, parameter in module.named_parameters()
        }
        self.means: dict[str, Tensor] = {}
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

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the parameters are the means, where there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, mean in self.means.items():
            parameter = self.parameters[name]
            self.means[name], parameter.data = parameter.data, mean

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as tensors and numbers."""
        return {"count": self.count, "means": self.means}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a state back. Raises KeyError where it is of other parameters."""
        self.count = saved["count"]
        self.means = {name: mean.to(self.parameters[name].device) for name, mean in saved["means"].items()}


def averages_at(config: Config, step: int) -> bool:
    """Whether the parameters after `step` steps belong to the mean."""
    last = config.max_steps - round(config.average * config.max_steps)
    return bool(config.average) and step > last and (config.max_steps - step) % EVERY == 0
