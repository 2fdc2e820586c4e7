"""Loss and ranks over the whole catalogue.

Letters: B sessions, D width, V items. A score is vector . candidate + bias.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Scores up to this many bytes stand in memory at once; beyond it the catalogue is gone through in pieces.
AT_ONCE = 1 << 28
PIECE = 1 << 26


def score_buffer(batch_size: int, n_items: int, device: torch.device | str) -> Tensor:
    """A buffer [B, W] for `catalogue_loss`: W is V, or less where B x V scores would take too much memory."""
    fits = batch_size * n_items * 4 <= AT_ONCE
    width = n_items if fits else max(1, min(n_items, PIECE // (4 * batch_size)))
    return torch.empty(batch_size, width, device=device)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of B sessions over V items with one B x V buffer instead of autograd's three.

    The gradients are made in the forward pass, where the scores are still at hand: with P = softmax(scores)
    and Y the one-hot targets, d/d scores = (P - Y) / B.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, buffer: Tensor | None
    ) -> Tensor:
        if buffer is not None and buffer.shape[1] < len(matrix):
            loss, grads = _in_pieces(vectors, matrix, bias, targets, buffer, any(ctx.needs_input_grad))
            ctx.grads = grads
            return loss
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


def _in_pieces(
    vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, buffer: Tensor, with_grads: bool
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None] | None]:
    """(loss, gradients) with W columns of scores at a time, W the width of the buffer.

    Once through the catalogue for log sum exp, once more for the gradients: the scores are made twice, which is a
    fourth product beside the three.
    """
    B, V, W = len(vectors), len(matrix), buffer.shape[1]
    pieces = [(low, min(low + W, V)) for low in range(0, V, W)]

    def scores_of(low: int, high: int) -> Tensor:
        out = buffer.view(-1)[: B * (high - low)].view(B, high - low)
        torch.mm(vectors, matrix[low:high].t(), out=out)
        return out if bias is None else out.add_(bias[low:high])

    log_total = vectors.new_full((B,), -math.inf)
    target_score = vectors.new_empty(B)
    rows = [((low <= targets) & (targets < high)).nonzero()[:, 0] for low, high in pieces]
    for (low, high), here in zip(pieces, rows, strict=True):
        scores = scores_of(low, high)
        target_score[here] = scores[here, targets[here] - low]
        log_total = torch.logaddexp(log_total, scores.logsumexp(1))
    loss = (log_total - target_score).mean()
    if not with_grads:
        return loss, None
    by_vectors, by_matrix = torch.zeros_like(vectors), torch.empty_like(matrix)
    by_bias = None if bias is None else torch.empty_like(bias)
    shares = vectors / B
    for (low, high), here in zip(pieces, rows, strict=True):
        softmax = scores_of(low, high).sub_(log_total[:, None]).exp_()
        softmax[here, targets[here] - low] -= 1
        by_vectors.addmm_(softmax, matrix[low:high], alpha=1 / B)
        torch.mm(softmax.t(), shares, out=by_matrix[low:high])
        if by_bias is not None:
            torch.sum(softmax, 0, out=by_bias[low:high]).div_(B)
    return loss, (by_vectors, by_matrix, by_bias)


def catalogue_loss(
    vectors: Tensor, matrix: Tensor, bias: Tensor | None, targets: Tensor, buffer: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy (nats) of `targets` [B] (rows of `matrix`, from 0) under softmax over the catalogue.

    vectors [B, D], matrix [V, D], bias [V] or None; `buffer` (of `score_buffer`) is overwritten where its shape
    fits, so that a step allocates nothing of that size; one narrower than V makes the loss go through the catalogue
    in pieces of that width. Differentiable once.
    """
    return _CatalogueCrossEntropy.apply(vectors, matrix, bias, targets, buffer)  # type: ignore[no-untyped-call]


def sampled_loss(vectors: Tensor, target_rows: Tensor, sampled_rows: Tensor, is_target: Tensor, n_items: int) -> Tensor:
    """Mean cross-entropy (nats) of targets under a softmax whose normaliser is estimated from sampled items.

    vectors [B, D]; target_rows [B, D], the candidate of each target; sampled_rows [n, D], candidates drawn uniformly
    and with replacement from all V = n_items; is_target bool [B, n], where a drawn item is the session's target.

    The normaliser is exp(target) + V/n times the sum of exp over the drawn items that are not the target. It has no
    bias; its logarithm has one: by Jensen's inequality this loss is too small on average, by about half the relative
    variance of the estimate, hence the less the larger n. Rare strong competitors of the target are mostly missed,
    so that gradients push them down too rarely. Ranks in evaluation are exact all the same.
    """
    target = (vectors * target_rows).sum(1)  # [B]
    others = vectors @ sampled_rows.t() + math.log(n_items / len(sampled_rows))  # [B, n]
    others = others.masked_fill(is_target, -math.inf)
    return (torch.cat([target[:, None], others], 1).logsumexp(1) - target).mean()


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
