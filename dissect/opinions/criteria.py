"""Scores of single weights in a trained model, and the model pruned by them. A higher score says: keep it.

All of them run the model in evaluation mode, without dropout, and leave it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dissect.errors import UsageError
from dissect.sparsevd.probe import as_before

Loss = Callable[[Any, Any], Tensor]
Weights = Mapping[str, nn.Parameter]
Scores = dict[str, Tensor]
Report = Callable[[], None]


def magnitude(weights: Weights, spread: Mapping[str, float] | None = None) -> Scores:
    """|w| of each weight, divided by the `spread` of its matrix: the standard deviation of its initial values.

    Without the division, matrices of another initialisation could not be compared; with it 1 is a weight that has
    stayed as large as chance made it. Global magnitude pruning (Han et al. 2015, arXiv 1506.02626) has spread = None.
    """
    spread = spread or {}
    return {name: weight.detach().abs() / (spread.get(name) or 1.0) for name, weight in weights.items()}


def taylor(
    model: nn.Module, loss: Loss, batches: Iterable[Any], weights: Weights, report: Report | None = None
) -> Scores:
    """|w g|, g the gradient of the loss of a batch: the first-order change of the loss if w were 0; mean over batches.

    Molchanov et al. 2017 (arXiv 1611.06440), for single weights. Of one batch with all examples it is 0 at a minimum:
    what it measures is how much the weight matters to the batch that happens to come. In nats.
    """
    return _mean(model, loss, batches, weights, lambda weight, gradient: (weight.detach() * gradient).abs(), report)


def fisher(
    model: nn.Module, loss: Loss, examples: Iterable[Any], weights: Weights, report: Report | None = None
) -> Scores:
    """The diagonal of the empirical Fisher information: g^2, mean over `examples`, batches of one example each.

    With batches of B examples it would be that of their mean, smaller by about B. Theis et al. 2018 (arXiv 1801.05787)
    multiply it by w^2 / 2, the second-order change of the loss if w were 0: see `reduction` for what follows from it.
    """
    return _mean(model, loss, examples, weights, lambda _, gradient: gradient.square(), report)


def _mean(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    weights: Weights,
    score: Callable[[Tensor, Tensor], Tensor],
    report: Report | None,
) -> Scores:
    """The mean over batches of a score of each weight and the gradient of the batch's loss."""
    total, n = {name: torch.zeros_like(weight) for name, weight in weights.items()}, 0
    # cuDNN has no gradient of a recurrent layer in evaluation mode.
    with as_before(model), torch.backends.cudnn.flags(enabled=False):
        model.eval()
        for batch in batches:
            value = scalar(loss(model, batch))
            gradients = torch.autograd.grad(value, [*weights.values()], allow_unused=True)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                if gradient is not None:  # a batch may not reach every layer
                    total[name] += score(weight, gradient)
            n += 1
            if report:
                report()
    if not n:
        raise UsageError("There is no batch to take gradients of.")
    return {name: each / n for name, each in total.items()}


def scalar(value: Any) -> Tensor:
    """A loss, checked. Raises UsageError if it is no scalar with a gradient."""
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"The loss must be a scalar tensor that has a gradient, not {got}.",
            "loss(model, batch) returns the mean over the examples of the batch.",
        )
    return value.reshape(())


@contextmanager
def pruned(weights: Weights, scores: Mapping[str, Tensor], share: float) -> Iterator[dict[str, float]]:
    """Within it, of all weights together the `share` with the highest scores stay and the others are 0.

    Gives the share that each matrix keeps. Weights of a SparseVD model must be `unmasked`.
    """
    if not 0 <= share <= 1:
        raise UsageError(f"The kept share lies between 0 and 1, not at {share}.")
    flat = torch.cat([scores[name].flatten() for name in weights])
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[flat.topk(round(share * len(flat)), sorted=False).indices] = True
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = dict(zip(weights, mask.split([weight.numel() for weight in weights.values()]), strict=True))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name].view_as(weight))
    try:
        yield {name: float(each.float().mean()) for name, each in masks.items()}
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
