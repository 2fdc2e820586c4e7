"""Loss and ranks over the whole catalogue.

Letters: B sessions, D width, V items. A score is vector . candidate + bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of B sessions over V items with one B x V buffer instead of autograd's three.

    The gradients are made in the forward pass, where the scores are still at hand: with P = softmax(scores)
    and Y the one-hot targets, d/d scores = (P - Y) / B.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, buffer: Tensor | None
    ) -> Tensor:
        fits = buffer is not None and buffer.shape == (len(vectors), len(matrix))
        scores = torch.mm(vectors, matrix.t(), out=buffer if fits else None)  # [B, V]
        if bias is not None:
            scores += bias
        rows = torch.arange(len(targets), device=targets.device)
        target_score = scores[rows, targets]
        highest = scores.amax(1)
        softmax = torch.softmax(scores, 1, out=scores)
        # log sum exp = highest score - log of its probability, which is at least 1 / V: cheaper than logsumexp.
        log_total = highest - softmax.amax(1).log()
        if any(ctx.needs_input_grad):
            softmax[rows, targets] -= 1
            ctx.grads = (
                torch.mm(softmax, matrix) / len(targets),  # [B, D]
                torch.mm(softmax.t(), vectors / len(targets)),  # [V, D]
                None if bias is None else softmax.sum(0) / len(targets),  # [V]
            )
        return (log_total - target_score).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Handed over, not kept: autograd then need not copy them.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("the catalogue loss can be differentiated once")
        if grad != 1:
            grads = tuple(None if g is None else g * grad for g in grads)
        return (*grads, None, None)


def catalogue_loss(
    vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, buffer: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy (nats) of `targets` [B] (rows of `matrix`, from 0) under softmax over the catalogue.

    vectors [B, D], matrix [V, D], bias [V] or None; `buffer` [B, V] is overwritten where its shape fits, so
    that a step allocates nothing of that size. Differentiable once.
    """
    return _CatalogueCrossEntropy.apply(vectors, matrix, bias, targets, buffer)  # type: ignore[no-untyped-call]


def ranks(vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, ties: str = "best") -> Tensor:
    """Rank int64 [B] of each target row among all V candidates: 1 is first.

    ties  "best" counts strictly better scores (the field's habit), "worst" also those equal to the target's,
          "mean" lies half-way, rounded down.
    """
    if ties not in ("best", "worst", "mean"):
        raise ValueError(f"ties is 'best', 'worst' or 'mean', not {ties!r}")
    scores = vectors @ matrix.t()  # [B, V]
    if bias is not None:
        scores += bias
    return ranks_of_scores(scores, targets, ties)


def ranks_of_scores(scores: Tensor, targets: Tensor, ties: str = "best") -> Tensor:
    """Rank int64 [B] of column `targets` [B] in each row of `scores` [B, V]; `ties` as in `ranks`."""
    target = scores.gather(1, targets[:, None])  # [B, 1]
    # Comparisons as floats: on the CPU their sum is ten times faster than that of booleans, and exact below 2^24.
    found = torch.empty_like(scores)
    better = torch.gt(scores, target, out=found).sum(1).long()
    if ties == "best":
        return better + 1
    equal = torch.eq(scores, target, out=found).sum(1).long() - 1
    return better + 1 + (equal if ties == "worst" else equal // 2)
