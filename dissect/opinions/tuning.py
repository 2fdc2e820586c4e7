"""Short trainings for an opinion: gates from the start, or what is left of a model with a part at zero.

Plain steps over batches, for any nn.Module; `sessions.py` has what a run of ours adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dissect.errors import DivergedError
from dissect.opinions.criteria import Loss, Report, scalar
from dissect.opinions.matrices import place_of

Before = Callable[[int], None]


def train(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    optimiser: torch.optim.Optimizer,
    *,
    penalty: Callable[[int], Tensor | float] = lambda step: 0.0,
    before: Before = lambda step: None,
    after: Before = lambda step: None,
    first: int = 0,
    report: Report | None = None,
) -> None:
    """A step on each batch: loss + penalty(step). `before` and `after` are called around it, with its number from
    `first` on.

    The model is in training mode, and stays in it. Raises DivergedError if the loss is NaN or infinite.
    """
    model.train()
    for step, batch in enumerate(batches, first):
        before(step)
        optimiser.zero_grad(set_to_none=True)
        with parametrize.cached():  # a weight that a step reads twice has one draw of its gates
            total = scalar(loss(model, batch)) + penalty(step)
            total.backward()
        if not torch.isfinite(total):
            raise DivergedError(f"The loss is no longer a number at step {step} of a training for an opinion.")
        optimiser.step()
        after(step)
        if report:
            report()


def recovered(
    model: nn.Module,
    zeroed: Sequence[str],
    loss: Loss,
    batches: Sequence[Any],
    *,
    lr: float,
    report: Report | None = None,
) -> None:
    """Train all of a model but the matrices `zeroed`, which become and stay 0, by Adam with a rate that falls to 0.

    Without any it is the same training of the whole model: what a loss has to be measured against.
    """
    frozen = [place_of(model, name) for name in zeroed]
    weights = [layer.get_parameter(attribute) for layer, attribute in frozen]
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
            weight.requires_grad_(False)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)

    def falls(step: int) -> None:
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / len(batches))

    train(model, loss, batches, optimiser, before=falls, report=report)
    for weight in weights:
        weight.requires_grad_(True)
    model.eval()
