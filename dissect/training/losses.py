"""Losses over a sample of the catalogue: the cross-entropy with drawn items, and GRU4Rec's bpr-max and top1-max.

B targets of a step (with `every_position` those of all clicks), n drawn items, V items, D width. A score is
vector . candidate + bias. Ranks in evaluation are exact whatever the loss.

Several processes that share a batch compare each target with the others of their own share only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dissect.errors import UsageError
from dissect.runs.config import Config
from models.base import catalogue


class Shares(NamedTuple):
    """How often each item is drawn, in proportion to a power of the clicks on it."""

    total: Tensor  # float64 [V], the shares added up: 1 at the end
    log: Tensor  # [V], the logarithm of the share of each item


def shares_of(items: Tensor, n_items: int, alpha: float) -> Shares:
    """For the clicked `items` (from 1). An item that nobody clicked counts as clicked once, so that it can be drawn."""
    clicks = torch.bincount(items.cpu().long() - 1, minlength=n_items).clamp(min=1).double()
    total = clicks.pow(alpha).cumsum(0)
    log = alpha * clicks.log() - total[-1].log()
    return Shares((total / total[-1]).to(items.device), log.float().to(items.device))


def drawn(n: int, n_items: int, shares: Shares | None, device: torch.device) -> Tensor:
    """n items (from 0), with replacement; without `shares` all are alike."""
    if shares is None:
        return torch.randint(n_items, (n,), device=device)
    places = torch.rand(n, dtype=torch.float64, device=device)  # below 1, so below the last total
    return torch.searchsorted(shares.total, places, right=True)


def loss_over_sample(
    model: Any,
    vectors: Tensor,
    S: Tensor,
    targets: Tensor,
    config: Config,
    shares: Shares | None = None,
    owner: Tensor | None = None,
) -> Tensor:
    """The configured loss of `targets` [B] (rows of S [V, D]), with `negatives` items drawn for all of them.

    `owner` [B] is the example that a target belongs to: with bpr-max and top1-max the targets of other examples are
    negatives too. Without it, each target is its own example.
    """
    B, sample = len(targets), drawn(config.negatives, len(S), shares, S.device)
    ids = torch.cat([targets, sample])
    matrix, bias = some_candidates(model, S, ids)  # [B + n, D]
    target = (vectors * matrix[:B]).sum(1)  # [B]
    target = target if bias is None else target + bias[:B]
    is_target = targets[:, None] == ids
    if config.loss == "cross-entropy":
        others = vectors @ matrix[B:].t()  # [B, n]
        others = others if bias is None else others + bias[B:]
        log_share = -math.log(len(S)) if shares is None else shares.log[sample].to(others.dtype)
        return sampled_loss(target, others, is_target[:, B:], log_share)
    others = vectors @ matrix.t()  # [B, B + n]
    others = others if bias is None else others + bias
    owner = torch.arange(B, device=S.device) if owner is None else owner
    is_own = F.pad(owner[:, None] == owner, (0, len(sample)))
    if config.elu:
        target, others = F.elu(target, config.elu), F.elu(others, config.elu)
    if config.loss == "bpr-max":
        return bpr_max(target, others, is_target | is_own, config.bpreg)
    return top1_max(target, others, is_target | is_own)


def some_candidates(model: Any, S: Tensor, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """(candidates [n, D], bias [n] or None) of the items `ids` [n], rows of S [V, D], as they enter the dot product.

    Raises UsageError if the bias is not that of these rows.
    """
    matrix, bias = catalogue(model, F.embedding(ids, S, sparse=S.is_leaf))
    if bias is not None and model.whole_bias:
        bias = bias[ids]
    if bias is not None and len(bias) != len(ids):
        raise UsageError(
            f"candidates gives a bias of {len(bias)} numbers for {len(ids)} rows of S.",
            "A loss over a part of the catalogue needs `whole_bias = True` in the class if the bias is a parameter.",
        )
    return matrix, bias


def sampled_loss(target: Tensor, others: Tensor, is_target: Tensor, log_share: Tensor | float) -> Tensor:
    """Mean cross-entropy (nats) of targets under a softmax whose normaliser is estimated from sampled items.

    target [B] and others [B, n] are scores, of the targets and of items drawn with replacement; is_target bool [B, n],
    where a drawn item is the session's target; log_share [n], the logarithm of the share q of each drawn item (log 1/V
    if they are drawn uniformly).

    The normaliser is exp(target) + the sum of exp / (n q) over the drawn items that are not the target: the correction
    called logQ. It has no bias; its logarithm has one: by Jensen's inequality this loss is too small on average, by
    about half the relative variance of the estimate, which falls with n. Rare strong competitors of the target are
    mostly missed, so gradients push them down too rarely.
    """
    others = others - (log_share + math.log(others.shape[1]))
    others = others.masked_fill(is_target, -math.inf)
    return (torch.cat([target[:, None], others], 1).logsumexp(1) - target).mean()


def bpr_max(target: Tensor, others: Tensor, left_out: Tensor, bpreg: float) -> Tensor:
    """Mean of -log sum_j s_j sigmoid(r_i - r_j) + bpreg sum_j s_j r_j^2, with s the softmax of the r_j (Hidasi and
    Karatzoglou, CIKM 2018).

    target [B], the r_i; others [B, m], the r_j; left_out bool [B, m], what is no negative. A target without negatives
    adds 0. The authors' code takes a drawn item that is the target for a negative; here it is left out.
    """
    log_s, is_any = _negatives(others, left_out)
    likelihood = (log_s + F.logsigmoid(target[:, None] - others)).logsumexp(1)
    loss = bpreg * (log_s.exp() * others.square()).sum(1) - likelihood
    return torch.where(is_any, loss, 0.0).mean()


def top1_max(target: Tensor, others: Tensor, left_out: Tensor) -> Tensor:
    """Mean of sum_j s_j (sigmoid(r_j - r_i) + sigmoid(r_j^2)), with the letters and arguments of `bpr_max`."""
    log_s, is_any = _negatives(others, left_out)
    each = torch.sigmoid(others - target[:, None]) + torch.sigmoid(others.square())
    return torch.where(is_any, (log_s.exp() * each).sum(1), 0.0).mean()


def _negatives(others: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
    """(log softmax of the scores over the negatives [B, m], whether a target has any [B]).

    A target without negatives keeps all scores: a softmax over nothing, and its gradient, are no numbers.
    """
    is_any = ~left_out.all(1)
    return others.masked_fill(left_out & is_any[:, None], -math.inf).log_softmax(1), is_any
