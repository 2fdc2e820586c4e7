"""Loss and ranks over the whole catalogue.

Letters: B sessions, D width, V items. A score is vector . candidate + bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dissect.training.device import largest_cache, multiplies_faster_by_item
from dissect.training.products import KERNELS, factor, multiply, multiplying_as
from models.base import lengths_of
from models.normalise import in_parts

# Scores up to this many bytes are kept in memory; beyond it they are computed again for the gradients.
AT_ONCE = 1 << 28
# Bytes of scores that are worked on at a time: on a CPU a small part of its last cache, which rows of the table share.
PIECE = {"cpu": max(1 << 20, largest_cache() // 24), "cuda": 1 << 26}
# Whether scores are made item by item [V, B] on a CPU, for the kernels that decide it (docs/performance.md).
BY_ITEM = {"bf16-mode": True, "bf16-operands": False}


def score_buffer(batch_size: int, n_items: int, device: torch.device | str) -> Tensor:
    """A buffer [W, B] for `catalogue_loss`: W is V, or less if V x B scores would take more than AT_ONCE."""
    fits = batch_size * n_items * 4 <= AT_ONCE
    return torch.empty(n_items if fits else _piece_rows(batch_size, torch.device(device)), batch_size, device=device)


def _piece_rows(batch_size: int, device: torch.device) -> int:
    return max(1, PIECE.get(device.type, PIECE["cuda"]) // (4 * max(1, batch_size)))


class _Pieces:
    """The scores of B sessions over V items, made in pieces of the catalogue that have room in a buffer."""

    def __init__(
        self,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        norm: Tensor | None,
        buffer: Tensor | None,
        kernel: str,
    ) -> None:
        self.bias, self.norm, self.operands = bias, norm, KERNELS[kernel].operands
        self.B, V = len(vectors), len(matrix)
        self.rows, self.queries = factor(matrix, self.operands), factor(vectors, self.operands)  # [V, D], [B, D]
        self.space = vectors.new_empty(V * self.B) if buffer is None else buffer.view(-1)
        self.keeps = len(self.space) >= V * self.B  # room for all scores at once
        n = min(_piece_rows(self.B, vectors.device), len(self.space) // self.B)
        self.pieces = [(low, min(low + n, V)) for low in range(0, V, n)]
        self.by_item = vectors.device.type == "cpu" and BY_ITEM.get(kernel, multiplies_faster_by_item())

    def scores(self, low: int, high: int) -> Tensor:
        """Scores [n, B] of the items from `low` to `high`, in the buffer."""
        start = low * self.B if self.keeps and self.operands is None else 0  # factors of another type lie elsewhere
        room = self.space[start : start + (high - low) * self.B]
        if self.by_item:
            scores = multiply(self.rows[low:high], self.queries.t(), out=room.view(high - low, self.B))
        else:
            scores = multiply(self.queries, self.rows[low:high].t(), out=room.view(self.B, high - low)).t()
        if self.norm is not None:
            scores.div_(self.norm[low:high, None])
        return scores if self.bias is None else scores.add_(self.bias[low:high, None])

    def slopes(self, exps: Tensor, low: int, high: int) -> Tensor:
        """E [n, B] in the derivative by vector . row, as a factor."""
        return factor(exps if self.norm is None else exps.div_(self.norm[low:high, None]), self.operands)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of B sessions over V items with one V x B buffer instead of autograd's three.

    The scores are made piece by piece, so that a piece is still in the cache when its maximum, exponentials and sum
    are taken. With s the scores and t the highest so far, the first pass keeps E = exp(s - t) of each piece and brings
    sums to the new t when it rises; in the second, softmax = E exp(t - log sum exp), whose factor goes into the
    vectors. With P = softmax and Y the one-hot targets, d/d scores = (P - Y) / B.

    With `norm`, s = vector . row / norm: scores and E are divided, so that no second table is written. If it is the
    length of the rows themselves (`norm_is_own`), its gradient is added to that of the rows.

    `kernel` says how the three products multiply. All else is float32: scores, logsumexp, sums, the targets' own scores
    and the gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        buffer: Tensor | None,
        norm: Tensor | None,
        norm_is_own: bool,
        kernel: str,
    ) -> Tensor:
        B, over = len(vectors), _Pieces(vectors, matrix, bias, norm, buffer, kernel)
        with_grads, with_table = any(ctx.needs_input_grad), any(ctx.needs_input_grad[1:])
        top, total, by_vectors = vectors.new_full((B,), -math.inf), vectors.new_zeros(B), torch.zeros_like(vectors)
        done: list[tuple[Tensor | None, Tensor]] = []
        for low, high in over.pieces:
            scores = over.scores(low, high)
            before, top = top, torch.maximum(top, scores.amax(0))
            exps, shrink = scores.sub_(top).exp_(), (before - top).exp_()
            total.mul_(shrink).add_(exps.sum(0))
            if with_grads:
                slopes = over.slopes(exps, low, high)
                by_vectors.mul_(shrink[:, None]).add_(multiply(slopes.t(), over.rows[low:high]))
                done.append((slopes if over.keeps else None, top))
        log_total = top + total.log()
        target_rows = matrix[targets] if norm is None else matrix[targets] / norm[targets, None]  # [B, D]
        target_score = (vectors * target_rows).sum(1)
        if bias is not None:
            target_score += bias[targets]
        by_matrix = by_bias = by_norm = None
        if with_table:
            by_matrix, by_bias = torch.empty_like(matrix), None if bias is None else torch.empty_like(bias)
            for (low, high), (kept, top) in zip(over.pieces, done, strict=True):
                slopes = over.slopes(over.scores(low, high).sub_(top).exp_(), low, high) if kept is None else kept
                share = (top - log_total).exp_().div_(B)
                multiply(slopes, factor(vectors * share[:, None], over.operands), out=by_matrix[low:high])
                if by_bias is not None:
                    torch.mv(slopes.to(share.dtype), share, out=by_bias[low:high])
            by_matrix.index_add_(0, targets, vectors if norm is None else vectors / norm[targets, None], alpha=-1 / B)
            if by_bias is not None:
                by_bias = by_bias if norm is None else by_bias.mul_(norm)
                by_bias.index_add_(0, targets, torch.full_like(total, -1 / B))
            if norm is not None and norm_is_own:
                _take_out_along(by_matrix, matrix, norm)
            elif norm is not None:
                by_norm = torch.linalg.vecdot(by_matrix, matrix).div_(norm).neg_()
        by_vectors.div_(total[:, None]).sub_(target_rows).div_(B)
        ctx.grads = (by_vectors, by_matrix, by_bias, None, None, by_norm, None, None) if with_grads else None
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
        return grads


def _take_out_along(gradient: Tensor, rows: Tensor, norm: Tensor) -> None:
    """In place: remove from each row of `gradient` [V, D] its component along that row of `rows`, of length `norm` [V].

    The length of a row has no effect, hence no gradient: g - h (h . g) with h = row / |row|.
    """
    for g, e, length in in_parts(gradient, rows, norm):
        along = torch.linalg.vecdot(g, e).div_(length.square())
        g.addcmul_(e, along[:, None], value=-1)


def catalogue_loss(
    vectors: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    buffer: Tensor | None = None,
    unit_of: Tensor | None = None,
    kernel: str = "float32",
) -> Tensor:
    """Mean cross-entropy (nats) of `targets` [B] (rows of `matrix`, from 0) under softmax over the catalogue.

    vectors [B, D], matrix [V, D], bias [V] or None; `buffer` (of `score_buffer`, for at least B sessions) is
    overwritten, so that a step allocates nothing of that size; with a buffer smaller than V x B the loss computes the
    scores twice; the result is exact. Vector . row is divided by the length of the row of `unit_of` [V, D].
    Differentiable once.

    `kernel` (of products.KERNELS) says how the three products multiply. The targets' own scores are always float32, so
    with factors of fewer bits the loss is off by the error of a score.
    """
    own, norm = unit_of is matrix, None
    if unit_of is not None:
        norm = lengths_of(unit_of.detach() if own else unit_of)
    with multiplying_as(kernel):  # the gradients are made at once, so that it holds for their products too
        loss: Tensor = _CatalogueCrossEntropy.apply(  # type: ignore[no-untyped-call]
            vectors, matrix, bias, targets, buffer, norm, own, kernel
        )
    return loss


def scores_over(vectors: Tensor, matrix: Tensor, bias: Tensor | None, buffer: Tensor | None = None) -> Tensor:
    """The scores [B, V] of vectors [B, D] over candidates [V, D] with bias [V].

    With a `buffer` of at least V B numbers they lie in it, until the next call writes there.
    """
    V, B = len(matrix), len(vectors)
    # Item by item in memory: on a CPU a third faster than the other way.
    scores = torch.mm(matrix, vectors.t(), out=None if buffer is None else buffer[: V * B].view(V, B)).t()
    return scores if bias is None else scores.add_(bias)


def ranks_by(scores: Tensor, targets: Tensor, ties: Sequence[str]) -> Tensor:
    """Ranks int64 [len(ties), B] of column `targets` [B] in each row of `scores` [B, V], by each rule for ties.

    "best" counts strictly better scores (the field's habit), "worst" also those equal to the target's, "mean" lies
    half-way, rounded down.
    """
    if wrong := [rule for rule in ties if rule not in ("best", "worst", "mean")]:
        raise ValueError(f"ties is 'best', 'worst' or 'mean', not {wrong[0]!r}")
    target = scores.gather(1, targets[:, None])  # [B, 1]
    # Piece by piece, so that comparisons stay in the cache.
    pieces = scores.split(_piece_rows(len(scores), scores.device), 1)

    def count(compare: Callable[..., Tensor]) -> Tensor:
        # Comparisons as floats: on the CPU their sum is ten times faster than that of booleans, and exact below 2^24.
        found = (compare(piece, target, out=torch.empty_like(piece)).sum(1).long() for piece in pieces)
        return torch.stack([*found]).sum(0)

    best = count(torch.gt) + 1
    equal = count(torch.eq) - 1 if set(ties) - {"best"} else torch.zeros_like(best)
    more = {"best": torch.zeros_like(equal), "worst": equal, "mean": equal // 2}
    return torch.stack([best + more[rule] for rule in ties])
