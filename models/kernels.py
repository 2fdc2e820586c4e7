"""Products that are slow in plain autograd; each has a plain twin in the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dots_by_length(query: Tensor, key: Tensor, owner: Tensor, lengths: Tensor) -> Tensor:
    """<query of the session, key of the click>: [B, M, H, E], [C, H, E] -> [C, H, M].

    owner    [C] the session of each click, ascending
    lengths  [B] the clicks of each session, on the host

    On a CPU, neighbouring sessions of equal length are multiplied at once: a query is read once a session, not once a
    click.
    """
    if query.device.type != "cpu":
        return torch.einsum("cmhe,che->chm", query.index_select(0, owner), key)
    dots: Tensor = _Dots.apply(query, key, lengths)  # type: ignore[no-untyped-call]
    return dots


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, lengths: Tensor) -> Tensor:
        dots = key.new_empty(len(key), key.shape[1], query.shape[1])
        ctx.save_for_backward(query, key)
        ctx.runs = _runs(lengths)
        for n, sessions, clicks in ctx.runs:
            k, out = (x[clicks].view(-1, n, *x.shape[1:]) for x in (key, dots))  # [b, n, H, ...]
            out.copy_((k.transpose(1, 2) @ query[sessions].permute(0, 2, 3, 1)).transpose(1, 2))
        return dots

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key = ctx.saved_tensors
        d_query, d_key = torch.empty_like(query), torch.empty_like(key)
        for n, sessions, clicks in ctx.runs:
            g, k, d_k = (x[clicks].view(-1, n, *x.shape[1:]) for x in (grads[0].contiguous(), key, d_key))
            g = g.transpose(1, 2)  # [b, H, n, M]
            d_query[sessions] = (g.transpose(2, 3) @ k.transpose(1, 2)).transpose(1, 2)
            d_k.copy_((g @ query[sessions].transpose(1, 2)).transpose(1, 2))
        return d_query, d_key, None


def _runs(lengths: Tensor) -> list[tuple[int, slice, slice]]:
    """(length, its sessions, their clicks) of each run of equal numbers in the lengths [B]."""
    runs, session, click = [], 0, 0
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    for n, b in zip(values.tolist(), counts.tolist(), strict=True):
        runs.append((n, slice(session, session + b), slice(click, click + n * b)))
        session, click = session + b, click + n * b
    return runs
