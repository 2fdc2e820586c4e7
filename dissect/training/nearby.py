"""The gradient of the loss over the catalogue, estimated from a part of it, near vectors where it is known exactly.

Letters: B sessions, D width, V items, m items of the part.

The pass of shadows and controls has the batch, noise and dropout of the model's own pass. So its session vectors v
differ from those of the model, v0, only by what shadows and controls add. The model's pass has computed the gradient g
at v0 over the whole catalogue. With e the estimate of g from a part of the catalogue,

    g(v) is about g(v0) + e(v) - e(v0)

The two estimates share their items, so their errors cancel as v comes near v0: a control variate, as in the
stochastic variance-reduced gradient (Johnson and Zhang, NeurIPS 2013). With e(v) alone shadows kept up to twice as much
in a trial (docs/results, "What it costs").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.base import lengths_of


class Near(NamedTuple):
    """Of the model's own pass: session vectors [B, D], the gradient [B, D] of the mean loss (nats) by them, and a
    function that makes torch draw the same random numbers again.
    """

    vectors: Tensor
    gradient: Tensor
    draw_again: Callable[[], None]


def draws_again(device: torch.device) -> Callable[[], None]:
    """A function that puts torch's random numbers, on the CPU and on `device`, back to where they are now."""
    here, there = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> None:
        torch.set_rng_state(here)
        if there is not None:
            torch.cuda.set_rng_state(there, device)

    return again


def surrogate_near(
    vectors: Tensor,
    near: Near,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    n: int,
    unit_of: Tensor | None = None,
) -> Tensor:
    """A number whose gradient by `vectors` [B, D] estimates that of `catalogue_loss`, from n items and the targets.

    Its value has no meaning, but is NaN or infinite if a vector is. matrix [V, D], bias [V] or None, targets [B] and
    unit_of [V, D] are those of `catalogue_loss`; none of them gets a gradient.
    """
    with torch.no_grad():
        ids, log_weight = part_of(targets, len(matrix), n)
        rows = matrix[ids]  # [m, D]
        if unit_of is not None:
            rows = rows / lengths_of(unit_of[ids])[:, None]
        shift = log_weight if bias is None else log_weight + bias[ids]
        # d loss / d score is (softmax - is target) / B; the targets are the same at both places, and cancel.
        more = torch.addmm(shift, vectors, rows.t()).softmax(1)  # [B, m]
        more -= torch.addmm(shift, near.vectors, rows.t()).softmax(1)
        gradient = near.gradient + (more @ rows) / len(vectors)
    return (vectors * gradient).sum()


def part_of(targets: Tensor, n_items: int, n: int) -> tuple[Tensor, Tensor]:
    """(ids [m] of a part of V items, in order; the logarithm [m] of the weight of each).

    The part has all targets, with weight 1, and n items drawn without replacement; a drawn item that is not a target
    has weight V / n. So a sum over the part, weighted, is that over all items on average (Horvitz and Thompson, 1952).
    """
    drawn = torch.randperm(n_items, device=targets.device)[:n]
    ids = torch.unique(torch.cat([targets, drawn]))
    log_weight = torch.full((len(ids),), math.log(n_items / n), device=ids.device)
    log_weight[torch.searchsorted(ids, targets)] = 0.0
    return ids, log_weight
