"""Loss and ranks over the whole catalogue.

Letters: B sessions, D width, V items. A score is vector . candidate + bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
BY_ITEM = {"bf16-mode": True}
# Sums of exp(score - target's score) up to here are taken as they are: products with them are far from overflowing.
HIGHEST = 1e30


def score_buffer(batch_size: int, n_items: int, device: torch.device | str) -> Tensor:
    """A buffer [W, B] for `catalogue_loss`: W is V, or less if V x B scores would take more than AT_ONCE."""
    fits = batch_size * n_items * 4 <= AT_ONCE
    return torch.empty(n_items if fits else _piece_rows(batch_size, torch.device(device)), batch_size, device=device)


def _piece_rows(batch_size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> int:
    return max(1, PIECE.get(device.type, PIECE["cuda"]) // (dtype.itemsize * max(1, batch_size)))


class _Pieces:
    """The scores of B sessions over V items, made in pieces of the catalogue that have room in a buffer.

    On a CPU a product of bfloat16 factors is bfloat16. The scores stay so, which is half as much to read and write.
    """

    def __init__(
        self,
        vectors: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        norm: Tensor | None,
        buffer: Tensor | None,
        kernel: str,
    ) -> None:
        self.matrix, self.bias, self.operands = matrix, bias, KERNELS[kernel].operands
        self.scale = None if norm is None else norm.reciprocal()[:, None]  # [V, 1]
        self.queries = factor(vectors, self.operands)  # [B, D]
        self.B, V = len(vectors), len(matrix)
        self.on_cpu = vectors.device.type == "cpu"
        space = vectors.new_empty(V * self.B) if buffer is None else buffer.view(-1)
        self.space = space.view(self.queries.dtype if self.on_cpu else vectors.dtype)
        self.keeps = len(self.space) >= V * self.B  # room for all scores at once
        n = min(_piece_rows(self.B, vectors.device, self.space.dtype), len(self.space) // self.B)
        self.pieces = [(low, min(low + n, V)) for low in range(0, V, n)]
        self.by_item = self.on_cpu and BY_ITEM.get(kernel, multiplies_faster_by_item())

    def rows(self, low: int, high: int) -> Tensor:
        """The candidates [n, D] from `low` to `high`, of the length that scores need, as a factor."""
        rows = self.matrix[low:high]
        return factor(rows if self.scale is None else rows * self.scale[low:high], self.operands)

    def scores(self, rows: Tensor, low: int, t: Tensor) -> Tensor:
        """Scores [n, B] of the candidates `rows` [n, D] from item `low`, less t [B], in the buffer."""
        start, n = low * self.B if self.keeps else 0, len(rows)
        room = self.space[start : start + n * self.B]
        shift = -t[None] if self.bias is None else self.bias[low : low + n, None] - t  # [1 or n, B]
        if self.by_item:
            return self._product(rows, self.queries.t(), shift, room.view(n, self.B))
        return self._product(self.queries, rows.t(), shift.t(), room.view(self.B, n)).t()

    def _product(self, a: Tensor, b: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        if self.on_cpu:  # added in float32, before the result is rounded
            return torch.addmm(shift.to(out.dtype), a, b, out=out)
        return multiply(a, b, out=out).add_(shift)


class _Exponentials(NamedTuple):
    """What the first pass over the catalogue leaves."""

    t: Tensor  # [B], at the end
    total: Tensor  # [B], the sum of exp(s - t) over the items
    by_vectors: Tensor  # [B, D], the sum of exp(s - t) row
    pieces: list[tuple[Tensor | None, Tensor]]  # exp(s - t) [n, B], as a factor, if there is room for all; t [B] then


def _exponentials(over: _Pieces, start: Tensor, rises: bool, with_grads: bool) -> _Exponentials:
    """exp(s - t) of all scores s, with t = `start` [B]; with `rises`, t is brought up to the highest score so far."""
    t = start.to(over.space.dtype).to(start.dtype)  # as the scores will have it
    total, by_vectors = torch.zeros_like(t), t.new_zeros(over.B, over.matrix.shape[1])
    pieces: list[tuple[Tensor | None, Tensor]] = []
    for low, high in over.pieces:
        rows = over.rows(low, high)
        exps = over.scores(rows, low, t)
        if rises:
            rise = exps.amax(0).clamp_(min=0)
            exps.sub_(rise)
            t, shrink = t + rise, (-rise.to(t.dtype)).exp_()
            total.mul_(shrink)
            by_vectors.mul_(shrink[:, None])
        exps.exp_()
        total += exps.sum(0, dtype=total.dtype)
        if with_grads:
            slopes = factor(exps, over.operands)
            by_vectors += multiply(slopes.t(), rows)
            pieces.append((slopes if over.keeps else None, t))
    return _Exponentials(t, total, by_vectors, pieces)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of B sessions over V items with one V x B buffer instead of autograd's three.

    The scores are made piece by piece, so that a piece is still in the cache when its exponentials and sum are taken.
    With s the scores, the first pass keeps E = exp(s - t) of each piece; in the second, softmax = E exp(t - log sum
    exp), whose factor goes into the vectors. With P = softmax and Y the one-hot targets, d/d scores = (P - Y) / B.

    t is the score of the session's target. This needs no maximum as long as the loss of each session is below 69 nats.
    Above that, and always on a GPU, for which a step does not wait, t rises to the highest score so far.

    With `norm`, s = vector . row / norm: the rows of a piece are divided, so that no second table is written. If it is
    the length of the rows themselves (`norm_is_own`), its gradient is added to that of the rows.

    `kernel` says how the three products multiply. On a CPU bfloat16 factors give s - t and E in bfloat16. All else is
    float32: sums, the targets' own scores, the gradients.
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
        over = _Pieces(vectors, matrix, bias, norm, buffer, kernel)
        B, with_grads, with_table = over.B, any(ctx.needs_input_grad), any(ctx.needs_input_grad[1:])
        target_rows = matrix[targets] if norm is None else matrix[targets] / norm[targets, None]  # [B, D]
        target_score = (vectors * target_rows).sum(1)
        if bias is not None:
            target_score += bias[targets]

        found = _exponentials(over, target_score, not over.on_cpu, with_grads)
        if over.on_cpu and not (found.total < HIGHEST).all():  # one is too high, or NaN
            found = _exponentials(over, target_score, True, with_grads)
        log_total, by_vectors = found.t + found.total.log(), found.by_vectors
        by_matrix = by_bias = by_norm = None
        if with_table:
            by_matrix, by_bias = torch.empty_like(matrix), None if bias is None else torch.empty_like(bias)
            for (low, high), (slopes, t) in zip(over.pieces, found.pieces, strict=True):
                if slopes is None:
                    slopes = factor(over.scores(over.rows(low, high), low, t).exp_(), over.operands)
                share = (t - log_total).exp_().div_(B)
                multiply(slopes, factor(vectors * share[:, None], over.operands), out=by_matrix[low:high])
                if over.scale is not None:
                    by_matrix[low:high].mul_(over.scale[low:high])
                if by_bias is not None:
                    torch.mv(slopes.to(share.dtype), share, out=by_bias[low:high])
            by_matrix.index_add_(0, targets, vectors if norm is None else vectors / norm[targets, None], alpha=-1 / B)
            if by_bias is not None:
                by_bias.index_add_(0, targets, torch.full_like(log_total, -1 / B))
            if norm is not None and norm_is_own:
                _take_out_along(by_matrix, matrix, norm)
            elif norm is not None:
                by_norm = torch.linalg.vecdot(by_matrix, matrix).div_(norm).neg_()
        by_vectors.div_(found.total[:, None]).sub_(target_rows).div_(B)
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
